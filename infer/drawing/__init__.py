"""Pictures of what a net answered: maps and boxes over the image; decides nothing and scores nothing."""
