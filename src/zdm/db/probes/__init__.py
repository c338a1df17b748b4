"""Questions to a server, one file each. Every answer is a typed value; what cannot be read says so, and is never zero."""
