"""The enclave: OHTTP gateway, persona agent, engines, identity and outbox."""
