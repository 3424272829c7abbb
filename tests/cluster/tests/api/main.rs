//! The agent against an API server.
