"""Pictures of what a net answered, maps and boxes over the image; figures and the style of pages; scores nothing."""
