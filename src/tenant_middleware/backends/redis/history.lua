-- Conversations of one tenant; all keys carry its hash tag. A line of a session is "<weight><t or .><json>": its
-- weight in tokens, t for a tool's result, the message.
--
-- KEYS: session list, its total ("<lines> <tokens>"), index (hash: session id -> list key); for 'move' also list and
-- total to move to
-- ARGV[1]: verb; the rest is said at each verb.

local list, total, index = KEYS[1], KEYS[2], KEYS[3]

local function weight(line)
  return tonumber(string.match(line, '^%d+'))
end

local function sum(lines)
  local tokens = 0
  for _, line in ipairs(lines) do
    tokens = tokens + weight(line)
  end
  return tokens
end

-- The tokens of the first `length` lines. Only a worker that limits tokens keeps a total; others add lines without it,
-- so it holds for as many lines as it says. Whatever takes lines away, or begins a session, drops or replaces it.
local function tokens_before(length)
  local known = redis.call('GET', total)
  if known and tonumber(string.match(known, '^%d+')) == length then
    return tonumber(string.match(known, '%d+$'))
  end
  return length > 0 and sum(redis.call('LRANGE', list, 0, length - 1)) or 0
end

-- Oldest lines go until the session fits; the last one stays, and no tool's result leads the rest.
local function trim(length, tokens, max_tokens, max_messages)
  local dropped = false
  while length > 1 and ((max_messages > 0 and length > max_messages) or (max_tokens > 0 and tokens > max_tokens)) do
    tokens = tokens - weight(redis.call('LPOP', list))
    length = length - 1
    dropped = true
  end
  while dropped and length > 1 and string.match(redis.call('LINDEX', list, 0), '^%d+t') do
    tokens = tokens - weight(redis.call('LPOP', list))
    length = length - 1
  end
  return length, tokens
end

local function forget(session)
  redis.call('UNLINK', list, total)
  redis.call('HDEL', index, session)
end

-- Lines were taken away: the total is no longer right, and a session without a line is none.
local function shortened(session)
  redis.call('UNLINK', total)
  if redis.call('LLEN', list) == 0 then
    redis.call('HDEL', index, session)
  end
end

local function take(session, count)
  count = math.min(count, redis.call('LLEN', list))
  if count == 0 then
    return {}
  end
  local taken = redis.call('LPOP', list, count)
  shortened(session)
  return taken
end

-- ARGV: session id, ttl (ms, 0 for none), max tokens (0 for none), max messages (0 for none), weight of all lines, line...
local function append()
  local session, ttl, max_tokens, max_messages = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local length
  for i = 7, #ARGV, 1000 do
    length = redis.call('RPUSH', list, unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
  local before = length - (#ARGV - 6)
  if before == 0 then
    redis.call('UNLINK', total)
    redis.call('HSET', index, session, list)
  end
  local tokens = max_tokens > 0 and tokens_before(before) + ARGV[6] or 0
  if max_tokens > 0 or max_messages > 0 then
    length, tokens = trim(length, tokens, max_tokens, max_messages)
  end
  if max_tokens > 0 then
    redis.call('SET', total, length .. ' ' .. tokens)
  elseif max_messages > 0 then
    redis.call('UNLINK', total)
  end
  if ttl > 0 then
    redis.call('PEXPIRE', list, ttl)
    redis.call('PEXPIRE', index, ttl)
    if max_tokens > 0 then
      redis.call('PEXPIRE', total, ttl)
    end
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
  return take(ARGV[2], tonumber(ARGV[3]))
end

-- ARGV: session id, how many, ttl, id of the session to move to
if verb == 'move' then
  local moved, ttl = take(ARGV[2], tonumber(ARGV[3])), tonumber(ARGV[4])
  if #moved > 0 then
    for _, line in ipairs(moved) do
      redis.call('RPUSH', KEYS[4], line)
    end
    redis.call('UNLINK', KEYS[5])
    redis.call('HSET', index, ARGV[5], KEYS[4])
    if ttl > 0 then
      redis.call('PEXPIRE', KEYS[4], ttl)
      redis.call('PEXPIRE', index, ttl)
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
  shortened(ARGV[2])
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
