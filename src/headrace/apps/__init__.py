"""The shipped pipelines, each a short file made of headrace's parts."""
