"""What the operating system gives: files that are whole or not there, processes, temporary files, safe text."""
