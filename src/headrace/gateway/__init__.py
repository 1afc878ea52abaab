"""HTTP servers of headrace."""
