"""What is wrong with a data set or doubtful in it, and what to do about it."""
