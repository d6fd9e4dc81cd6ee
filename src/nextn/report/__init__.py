"""What people see: tables, progress, JSON. Prints; decides nothing."""
