"""Documents read back as sections of tables and plots, and the page that shows them."""
