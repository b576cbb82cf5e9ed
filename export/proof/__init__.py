"""What an export lost, measured before it is delivered; knows no options of the command line."""
