"""What earlier formats of the journal and the tables lack, and what it is read as. Nothing else knows of them."""
