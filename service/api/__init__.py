"""The API as types: the bodies of requests, the shapes of answers, and their description."""
