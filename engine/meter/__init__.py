"""What an answer used: memory, time and the receipt that is made of them."""
