"""The review page: refined points that a person should look at, in one HTML file."""
