"""RedisVL on Redis with the Query Engine: vectors and the semantic cache. Import the module of the concern you need."""
