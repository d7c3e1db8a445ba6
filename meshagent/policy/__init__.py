"""What the documents mean. Pure: values in, values out."""
