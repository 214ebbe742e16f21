"""The demo: three tenants of different tiers, two of them competitors, and one chain for all."""
