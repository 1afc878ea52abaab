"""Between topics and what is no topic: files, servers and databases."""
