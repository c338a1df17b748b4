"""The commands, one file each; a file's `command` is found by the name of the file."""
