"""What repstat's estimators cost next to what a user could pick instead: ``make bench``."""
