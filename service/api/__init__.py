"""The API as types: request bodies, response objects, and their OpenAPI document."""
