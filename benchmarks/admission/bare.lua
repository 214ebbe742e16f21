-- The bare script: requests, tokens and money of one tenant in one step, with a record per call, and nothing else:
-- no periods, leases that expire, concurrency, growth, rebuilding or refusals with reasons.
-- KEYS: account, held, done (marker of this id), rows; ARGV: operation, id, then what it needs
local A, H, D, S = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id = ARGV[2]
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000

if ARGV[1] == 'reserve' then
  -- rpm, tpm, burst, budget, tokens, nano, ttl
  local rpm, tpm, burst, budget = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local tokens, nano = tonumber(ARGV[7]), tonumber(ARGV[8])
  local v = redis.call('HMGET', A, 'rq', 'tk', 'at', 'sp', 'rs')
  local rq, tk = tonumber(v[1]) or burst * rpm, tonumber(v[2]) or burst * tpm
  local passed = v[3] and math.max(now - tonumber(v[3]), 0) or 0
  local sp, rs = tonumber(v[4]) or 0, tonumber(v[5]) or 0
  rq, tk = math.min(rq + passed * rpm / 60, burst * rpm), math.min(tk + passed * tpm / 60, burst * tpm)
  if redis.call('HEXISTS', H, id) == 1 or redis.call('EXISTS', D) == 1 then return { 0, 'replayed' } end
  if rq < 1 then return { 0, 'rpm' } end
  if tk < tokens then return { 0, 'tpm' } end
  if sp + rs + nano > budget then return { 0, 'budget' } end
  redis.call('HSET', A, 'rq', string.format('%.17g', rq - 1), 'tk', string.format('%.17g', tk - tokens),
    'at', string.format('%.17g', now), 'sp', string.format('%.17g', sp), 'rs', string.format('%.17g', rs + nano))
  redis.call('HSET', H, id, cmsgpack.pack({ t = tokens, m = nano, e = now + tonumber(ARGV[9]) }))
  return { 1, math.floor(rq), math.floor(tk), string.format('%.17g', sp) }
end

-- settle: tokens, nano, row
local packed = redis.call('HGET', H, id)
if not packed or not redis.call('SET', D, '', 'NX', 'EX', 3600) then return 0 end
local held = cmsgpack.unpack(packed)
redis.call('HDEL', H, id)
redis.call('HINCRBYFLOAT', A, 'tk', held.t - tonumber(ARGV[3]))
redis.call('HINCRBY', A, 'rs', -held.m)
redis.call('HINCRBY', A, 'sp', ARGV[4])
redis.call('XADD', S, '*', 'row', ARGV[5])
return 1
