"""What comes from the web: requests, downloads, discovery, and who we are to servers."""
