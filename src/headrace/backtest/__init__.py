"""Backtests: the alarms of a pipeline over labelled history, judged by events found, false alarms and an alarm budget."""
