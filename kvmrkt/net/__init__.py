"""Networks of pods: configuration, addresses, links, rules, and the plug-ins of others."""
