"""What the gateway's OpenAPI document says beyond the services' own."""
