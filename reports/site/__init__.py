"""The pages, and how they reach a directory that may hold a reader's own files as well."""
