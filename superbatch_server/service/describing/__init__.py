"""The service's description of itself: the OpenAPI document, its page, the reference and its advice."""
