"""What a person reads. Pure: values in, text out; nothing here prints or connects."""
