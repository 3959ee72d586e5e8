"""From a student to a file for one engine, proved to answer the same."""
