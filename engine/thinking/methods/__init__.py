"""The methods of answering, one file each."""
