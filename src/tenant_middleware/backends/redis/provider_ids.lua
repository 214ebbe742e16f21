-- Ids that a provider gave to one tenant: a sorted set, scored by when they were given out (s, the server's time).
--
-- KEYS[1]: the tenant's set; ARGV: verb, id, ttl (s), most ids

local ids, ttl = KEYS[1], tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])

if ARGV[1] == 'claim' then
  redis.call('ZADD', ids, now, ARGV[2])
  redis.call('ZREMRANGEBYSCORE', ids, '-inf', now - ttl)
  redis.call('ZREMRANGEBYRANK', ids, 0, -tonumber(ARGV[4]) - 1)
  redis.call('EXPIRE', ids, ttl)
  return 1
end

if ARGV[1] == 'owns' then
  local given = redis.call('ZSCORE', ids, ARGV[2])
  return (given and now - tonumber(given) < ttl) and 1 or 0
end

local count = redis.call('ZCARD', ids)
redis.call('UNLINK', ids)
return count
