-- Conversations of one tenant; all keys carry its hash tag. A line of a session is "<weight><t or .><json>": its
-- weight in tokens, t for a tool's result, the message.
--
-- KEYS: session list, session total (tokens), index (hash: session id -> list key); for 'move' list and total to move to
-- ARGV[1]: verb; the rest is said at each verb.

local list, total, index = KEYS[1], KEYS[2], KEYS[3]

local function weight(line)
  return tonumber(string.match(line, '^%d+'))
end

local function off_the_front()
  local line = redis.call('LPOP', list)
  redis.call('DECRBY', total, weight(line))
  return line
end

-- Oldest lines go until the session fits; the last one stays, and no tool's result leads the rest.
local function trim(max_tokens, max_messages)
  local length = redis.call('LLEN', list)
  local tokens = tonumber(redis.call('GET', total) or '0')
  local dropped = false
  while length > 1 and ((max_messages > 0 and length > max_messages) or (max_tokens > 0 and tokens > max_tokens)) do
    tokens = tokens - weight(off_the_front())
    length = length - 1
    dropped = true
  end
  while dropped and length > 1 and string.match(redis.call('LINDEX', list, 0), '^%d+t') do
    off_the_front()
    length = length - 1
  end
  return length
end

local function forget(session)
  redis.call('UNLINK', list, total)
  redis.call('HDEL', index, session)
end

-- ARGV: session id, ttl (ms, 0 for none), max tokens (0 for none), max messages (0 for none), weight of all lines, line...
local function append()
  local session, ttl, max_tokens, max_messages = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local length
  for i = 7, #ARGV, 1000 do
    length = redis.call('RPUSH', list, unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
  redis.call('INCRBY', total, ARGV[6])
  if length == #ARGV - 6 then
    redis.call('HSET', index, session, list)
  end
  if ttl > 0 then
    redis.call('PEXPIRE', list, ttl)
    redis.call('PEXPIRE', total, ttl)
    redis.call('PEXPIRE', index, ttl)
  end
  if max_tokens > 0 or max_messages > 0 then
    return trim(max_tokens, max_messages)
  end
  return length
end

local verb = ARGV[1]

if verb == 'append' then
  return append()
end

if verb == 'replace' then
  redis.call('UNLINK', list, total)
  if #ARGV < 7 then
    redis.call('HDEL', index, ARGV[2])
    return 0
  end
  return append()
end

-- ARGV: session id, how many
if verb == 'drop' then
  local dropped = {}
  for _ = 1, math.min(tonumber(ARGV[3]), redis.call('LLEN', list)) do
    dropped[#dropped + 1] = off_the_front()
  end
  if redis.call('LLEN', list) == 0 then
    forget(ARGV[2])
  end
  return dropped
end

-- ARGV: session id, how many, ttl, id of the session to move to
if verb == 'move' then
  local moved, ttl = {}, tonumber(ARGV[4])
  for _ = 1, math.min(tonumber(ARGV[3]), redis.call('LLEN', list)) do
    local line = off_the_front()
    moved[#moved + 1] = line
    redis.call('RPUSH', KEYS[4], line)
    redis.call('INCRBY', KEYS[5], weight(line))
  end
  if #moved > 0 then
    redis.call('HSET', index, ARGV[5], KEYS[4])
    if ttl > 0 then
      redis.call('PEXPIRE', KEYS[4], ttl)
      redis.call('PEXPIRE', KEYS[5], ttl)
      redis.call('PEXPIRE', index, ttl)
    end
    if redis.call('LLEN', list) == 0 then
      forget(ARGV[2])
    end
  end
  return moved
end

-- ARGV: session id, position
if verb == 'remove' then
  local line = redis.call('LINDEX', list, tonumber(ARGV[3]))
  if not line then
    return {}
  end
  redis.call('LSET', list, tonumber(ARGV[3]), '')
  redis.call('LREM', list, 1, '')
  redis.call('DECRBY', total, weight(line))
  if redis.call('LLEN', list) == 0 then
    forget(ARGV[2])
  end
  return {line}
end

if verb == 'length' then
  return redis.call('LLEN', list)
end

-- ARGV: session id
if verb == 'clear' then
  local length = redis.call('LLEN', list)
  forget(ARGV[2])
  return length
end

-- The index alone (all three KEYS name it). Sessions that have expired are taken out of it.
local live, messages = {}, 0
local rows = redis.call('HGETALL', index)
for i = 1, #rows, 2 do
  local length = redis.call('LLEN', rows[i + 1])
  if length == 0 then
    redis.call('HDEL', index, rows[i])
  else
    live[#live + 1] = rows[i]
    messages = messages + length
    if verb == 'clear_tenant' then
      redis.call('UNLINK', rows[i + 1], rows[i + 1] .. 'total.')
    end
  end
end
if verb == 'clear_tenant' then
  redis.call('UNLINK', index)
  return messages
end
if verb == 'count' then
  return {#live, messages}
end
return live
