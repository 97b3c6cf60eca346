"""What each prototype shows, where it is, when it appears, and how well the pictures follow it."""
