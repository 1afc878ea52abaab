"""What headrace serves over HTTP."""
