"""The checks of `headrace doctor`: what each looks at, and the fix of what it finds."""
