"""`smallm experiment`: datasets x training sizes x seeds x systems, resumable, and the report over them."""
