-- A pool of slots shared by workers: virtual token counters, leases, parked tenants. One call is one atomic step.
--
-- KEYS[1]  the pool's hash; every other key begins with its name and so lies in the same cluster slot:
--   turns  zset  tenants that may run, by counter; the member breaks ties (running, age, tenant)
--   ages   zset  the same tenants, by the time since which they wait for any slot
--   parked zset  tenants that stand aside, by the time of their return       ends  zset  running jobs, by max_runtime
--   idle   zset  tenants without jobs whose counter is ahead of the virtual time
--   l:T    hash  a tenant        q:T  zset  its waiting jobs by number       m:T   hash  its mean outputs by model
--   s:T    hash  what it got     seen zset  tenants by last use, for operators
--   jobs   hash  job -> record   workers zset  worker -> end of its lease    w:W   set   a worker's jobs
--   box:W  list  jobs that got a slot, for the worker to fetch
-- A job's number is the microsecond it came at, made unique; times are seconds of the server's clock. `queue_verbs.lua`
-- follows in the same script. A key that somebody deleted costs the other tenants nothing: what it told is mended when it
-- is missed. A clock that is set back, as by a failover to another machine, goes on from where it was.
-- ARGV: verb, worker, terms as JSON, then the verb's own. Replies: {status, {...}, seconds to the next event}
local P, verb, worker, terms = KEYS[1], ARGV[1], ARGV[2], cjson.decode(ARGV[3])
local time = redis.call('TIME')
local clock = terms.now or tonumber(time[1]) + tonumber(time[2]) / 1e6 -- tests bring a clock of their own
local lanes, granted, probing_grant = {}, {}, false
local KEEP_S = 3600 -- figures of tenants that don't come back; means are kept for a day
local AGED_ONE_IN = 4 -- of so many starts, one may go to a tenant that waited too long: `pool.py` says why
local REAPED, WOKEN, SWEPT, MODELS = 100, 16, 2, 200 -- bounds on the housekeeping of one call, and on what a tenant names

local head = redis.call('HMGET', P, 'v', 'top', 'seq', 'queued', 'frozen', 'beat', 'reap_after', 'turn', 'ahead')
local now = math.max(clock + (tonumber(head[9]) or 0), tonumber(head[6]) or 0)
local pool = {
  v = tonumber(head[1]) or 0, top = tonumber(head[2]) or 0, seq = tonumber(head[3]) or 0,
  queued = tonumber(head[4]) or 0, frozen = tonumber(head[5]) or 0, beat = tonumber(head[6]) or now,
  reap_after = tonumber(head[7]) or 0, in_turn = tonumber(head[8]) or AGED_ONE_IN,
}
if not head[1] then
  -- New, or lost with the server's memory: then calls are running that we don't know yet, and workers soon say so.
  local info = redis.pcall('INFO', 'server')
  local up = type(info) == 'string' and tonumber(string.match(info, 'uptime_in_seconds:(%d+)')) or terms.lease
  pool.frozen = now + math.max(terms.grace - up, 0)
end
-- Nobody called for so long: the server was away, or everybody is gone. Give who lives a lease to say so.
if now - pool.beat > terms.lease / 2 then pool.reap_after = now + terms.lease end
pool.beat = now

local function lane_of(name)
  local lane = lanes[name]
  if lane then return lane end
  local h = redis.call('HMGET', P .. 'l:' .. name, 'c', 'w', 'r', 't', 's', 'y', 'm', 'p', 'g', 'x')
  lane = {
    name = name, counter = tonumber(h[1]) or 0, weight = tonumber(h[2]) or 1, running = tonumber(h[3]) or 0,
    tokens = tonumber(h[4]) or 0, queued = redis.call('ZCARD', P .. 'q:' .. name), served = tonumber(h[5]) or 0,
    since = tonumber(h[6]) or 0, member = h[7] or '', parked = tonumber(h[8]), probing = h[9] == '1',
    probe = h[10] or '',
  }
  lanes[name] = lane
  return lane
end

local function save(lane)
  local key = P .. 'l:' .. lane.name
  if lane.queued == 0 and lane.running == 0 and not lane.parked then
    if lane.counter <= pool.v or terms.order == 'fifo' then
      redis.call('ZREM', P .. 'idle', lane.name)
      redis.call('DEL', key)
      return
    end
    redis.call('ZADD', P .. 'idle', lane.counter, lane.name)
    lane.probing, lane.probe = false, '' -- whoever comes next has nothing to try for others
  end
  redis.call('HSET', key, 'c', lane.counter, 'w', lane.weight, 'r', lane.running, 't', lane.tokens,
    's', lane.served, 'y', lane.since, 'm', lane.member, 'p', lane.parked or '', 'g', lane.probing and '1' or '0',
    'x', lane.probe)
end

local function record(id)
  local packed = redis.call('HGET', P .. 'jobs', id)
  return packed and cmsgpack.unpack(packed)
end

local function keep(id, job) redis.call('HSET', P .. 'jobs', id, cmsgpack.pack(job)) end

local function forget(id, job)
  redis.call('HDEL', P .. 'jobs', id)
  redis.call('SREM', P .. 'w:' .. job.worker, id)
end

-- Charging.

local function expected(lane, job)
  local seen = redis.call('HGET', P .. 'm:' .. lane.name, job.model) or redis.call('HGET', P .. 'm:', job.model)
  local mean = seen and tonumber(string.match(seen, ' (.*)')) or terms.prior
  return job.prompt + terms.k * math.min(mean, job.most)
end

local function observe(name, model, output)
  local key = P .. 'm:' .. name
  local seen = redis.call('HGET', key, model)
  local count, mean = string.match(seen or '0 0', '(%d+) (.*)')
  count, mean = tonumber(count), tonumber(mean)
  mean = mean + (output - mean) * math.max(1 / (count + 1), 0.1)
  if not seen and redis.call('HLEN', key) >= MODELS then return end
  redis.call('HSET', key, model, string.format('%d %.17g', math.min(count + 1, 1000), mean))
  redis.call('EXPIRE', key, KEEP_S * 24)
end

local function move(lane, by)
  local floor = math.min(lane.counter, pool.v)
  lane.counter = math.max(lane.counter + by, floor)
  pool.top = math.max(pool.top, lane.counter)
end

local function correct(lane, job, cost)
  if terms.order == 'vtc' then move(lane, (cost - job.charged) / job.share) end
  lane.tokens = math.max(lane.tokens + cost - job.charged, 0)
  job.charged = cost
end

local function figures(name, tokens, calls, waited)
  local key = P .. 's:' .. name
  if tokens ~= 0 then redis.call('HINCRBYFLOAT', key, 'tokens', tokens) end
  if calls ~= 0 then
    redis.call('HINCRBY', key, 'calls', calls)
    redis.call('HINCRBYFLOAT', key, 'waited', waited)
    if waited > (tonumber(redis.call('HGET', key, 'longest')) or 0) then redis.call('HSET', key, 'longest', waited) end
  end
  redis.call('EXPIRE', key, KEEP_S)
  redis.call('ZADD', P .. 'seen', now, name)
end

-- Who may run, and who is next.

local function head_of(lane)
  local first = redis.call('ZRANGE', P .. 'q:' .. lane.name, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

local function may_run(lane)
  if lane.queued == 0 or lane.parked or lane.probe ~= '' then return false end
  if terms.lane_slots >= 0 and lane.running >= terms.lane_slots then return false end
  if terms.max_tokens < 0 or lane.running == 0 then return true end
  local first = record((head_of(lane)))
  return not first or lane.tokens + expected(lane, first) <= terms.max_tokens
end

local function refresh(lane)
  local was = lane.member
  if may_run(lane) then
    local _, seq = head_of(lane)
    if was == '' then
      if terms.order ~= 'fifo' then lane.counter = math.max(lane.counter, pool.v) end
      lane.since = now
      redis.call('ZREM', P .. 'idle', lane.name)
    end
    lane.member = string.format('%08d:%016.0f:%s', lane.running, seq, lane.name)
    if was ~= '' and was ~= lane.member then redis.call('ZREM', P .. 'turns', was) end
    redis.call('ZADD', P .. 'turns', terms.order == 'fifo' and seq or lane.counter, lane.member)
    redis.call('ZADD', P .. 'ages', math.max(seq / 1e6, lane.served, lane.since), lane.name)
  elseif was ~= '' then
    redis.call('ZREM', P .. 'turns', was)
    redis.call('ZREM', P .. 'ages', lane.name)
    lane.member = ''
  end
end

local function next_lane()
  local oldest = redis.call('ZRANGE', P .. 'ages', 0, 0, 'WITHSCORES')
  if not oldest[1] then return nil end
  pool.in_turn = pool.in_turn + 1
  if now - tonumber(oldest[2]) > terms.max_wait and pool.in_turn >= AGED_ONE_IN then
    pool.in_turn = 0
    return lane_of(oldest[1]), false
  end
  local member = redis.call('ZRANGE', P .. 'turns', 0, 0)[1]
  while member do
    local lane = lane_of(string.sub(member, 27))
    if lane.member == member then return lane, true end
    redis.call('ZREM', P .. 'turns', member) -- of a tenant whose record is gone
    refresh(lane)
    member = redis.call('ZRANGE', P .. 'turns', 0, 0)[1]
  end
  return lane_of(oldest[1]), true
end

-- Starting and stopping.

local function start(lane, id, job, in_turn)
  local cost = expected(lane, job)
  job.state, job.charged, job.share, job.started = 'r', cost, lane.weight, now
  if in_turn then pool.v = math.max(pool.v, lane.counter) end
  if terms.order == 'vtc' then move(lane, cost / lane.weight) end
  if terms.order == 'wrr' then move(lane, 1 / lane.weight) end
  lane.running, lane.tokens, lane.served = lane.running + 1, lane.tokens + cost, now
  job.probe = lane.probing
  if lane.probing then lane.probe = id end
  redis.call('ZADD', P .. 'ends', now + terms.max_runtime, id)
  keep(id, job)
  figures(lane.name, 0, 1, math.max(now - job.came, 0))
end

local function stop(lane, id, job, cost)
  local before = job.charged
  correct(lane, job, cost)
  lane.running = math.max(lane.running - 1, 0)
  lane.tokens = lane.running > 0 and math.max(lane.tokens - cost, 0) or 0
  if lane.probe == id then lane.probe, lane.probing = '', false end
  redis.call('ZREM', P .. 'ends', id)
  return before
end

local function retry(lane)
  lane.parked, lane.probing = nil, true
  redis.call('ZREM', P .. 'parked', lane.name)
end

local function unqueue(lane, id)
  lane.queued = lane.queued - redis.call('ZREM', P .. 'q:' .. lane.name, id)
  pool.queued = math.max(pool.queued - 1, 0)
end

local function enqueue(lane, id, job)
  job.state = 'q'
  redis.call('ZADD', P .. 'q:' .. lane.name, job.seq, id)
  lane.queued, pool.queued = lane.queued + 1, pool.queued + 1
  keep(id, job)
end

local function aside(lane, seconds)
  lane.parked = math.max(lane.parked or 0, now + seconds)
  redis.call('ZADD', P .. 'parked', lane.parked, lane.name)
end

local function finish(id, job, prompt, output)
  local lane, cost = lane_of(job.lane), prompt + terms.k * output
  if job.state == 'r' then
    stop(lane, id, job, cost)
    if lane.parked then retry(lane) end -- what this call held may be what the tenant's next one waits for
  elseif job.state == 'o' then
    if terms.order == 'vtc' then move(lane, (cost - job.charged) / job.share) end
  else
    unqueue(lane, id)
  end
  forget(id, job)
  if prompt + output > 0 then
    observe(job.lane, job.model, output)
    observe('', job.model, output)
    figures(job.lane, cost, 0, 0)
  end
  refresh(lane)
  if redis.call('HLEN', P .. 'jobs') == 0 then pool.queued = 0 end
  if pool.queued == 0 and redis.call('ZCARD', P .. 'ends') == 0 then pool.v = pool.top end
end

-- What happens by itself: slots of the dead and of the endless, tenants that come back, tenants to forget.

local function bury(id)
  local job = record(id)
  if not job then return end
  local lane = lane_of(job.lane)
  if job.state == 'r' then stop(lane, id, job, job.charged) elseif job.state == 'q' then unqueue(lane, id) end
  redis.call('HDEL', P .. 'jobs', id)
  refresh(lane)
end

local function keep_house()
  if now >= pool.reap_after then
    local dead = redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', '(' .. string.format('%.17g', now), 'LIMIT', 0, 1)[1]
    if dead and dead ~= worker then
      local jobs = redis.call('SPOP', P .. 'w:' .. dead, REAPED)
      for _, id in ipairs(jobs) do bury(id) end
      if #jobs < REAPED then
        redis.call('ZREM', P .. 'workers', dead)
        redis.call('DEL', P .. 'box:' .. dead)
      end
    end
  end
  local until_now = string.format('%.17g', now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'ends', '-inf', until_now, 'LIMIT', 0, WOKEN)) do
    local job = record(id)
    if job then
      local lane = lane_of(job.lane)
      stop(lane, id, job, job.charged)
      job.state = 'o'
      keep(id, job)
      refresh(lane)
    else
      redis.call('ZREM', P .. 'ends', id)
    end
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'parked', '-inf', until_now, 'LIMIT', 0, WOKEN)) do
    local lane = lane_of(name)
    retry(lane)
    refresh(lane)
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'idle', '-inf', string.format('%.17g', pool.v), 'LIMIT', 0, SWEPT)) do
    lane_of(name) -- saved at the end: that forgets it
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'seen', '-inf', now - KEEP_S, 'LIMIT', 0, SWEPT)) do
    redis.call('ZREM', P .. 'seen', name)
  end
end

local function dispatch()
  if now < pool.frozen then return end
  local free = terms.slots - redis.call('ZCARD', P .. 'ends')
  while free > 0 do
    local lane, in_turn = next_lane()
    if not lane then return end
    local id = redis.call('ZPOPMIN', P .. 'q:' .. lane.name)[1]
    local job = id and record(id)
    if id then
      lane.queued, pool.queued = lane.queued - 1, math.max(pool.queued - 1, 0)
    else
      redis.call('ZREM', P .. 'ages', lane.name)
    end
    if job then start(lane, id, job, in_turn) end
    refresh(lane)
    if job then
      granted[id] = true
      if job.worker ~= worker or id ~= ARGV[4] then
        local turn = (job.turn or 0) > 0 and '#' .. job.turn or '' -- a call that was parked since must not take it for its new slot
        redis.call('RPUSH', P .. 'box:' .. job.worker, id .. turn .. (job.probe and '?' or ''))
        redis.call('EXPIRE', P .. 'box:' .. job.worker, math.ceil(terms.lease * 4)) -- its worker may be gone
      end
      if id == ARGV[4] then probing_grant = job.probe end
      free = free - 1
    end
  end
end

local function upcoming()
  local soonest = redis.call('ZRANGE', P .. 'parked', 0, 0, 'WITHSCORES')[2]
  local wait = soonest and tonumber(soonest) - now or 3600
  if pool.queued > 0 then
    local over = redis.call('ZRANGE', P .. 'ends', 0, 0, 'WITHSCORES')[2]
    if over then wait = math.min(wait, tonumber(over) - now) end
    if pool.frozen > now then wait = math.min(wait, pool.frozen - now) end
  end
  return string.format('%.6f', math.max(wait, 0))
end
