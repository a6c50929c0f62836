"""The endpoints as a Flask blueprint. Besides `app` and `extension` nothing else knows Flask."""
