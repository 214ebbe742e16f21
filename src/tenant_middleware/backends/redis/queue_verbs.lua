-- What workers ask of a pool; the second half of `queue.lua`. ARGV[4] is the job's id where there is one.
--   enter    id tenant model prompt most weight seconds at_once turn   1 granted, 0 in line, -1 line full, -2 not at once;
--                                                            with seconds > 0 its tenant stands aside that long first
--   adopt    as enter, without seconds and at_once: a running call, after the books were lost
--   park     id seconds turn           1 back in line, its tenant stands aside; 0 it has no slot any more
--   progress id output                 leave, cancel  id prompt output: 0 when it was unknown
--   tick     the number of this worker's jobs              mine  {id, state, probe, turn} of each         bye  forget them
--   state    most tenants             forget  tenant: how many keys and entries there were of one that left
local status, more = 1, {}
if verb ~= 'state' and verb ~= 'forget' then -- looking on and clearing up are no work
  redis.call('ZADD', P .. 'workers', now + terms.lease, worker)
end
keep_house()

if verb == 'enter' then
  local id, name = ARGV[4], ARGV[5]
  local lane, job = lane_of(name), record(id)
  local seconds, at_once = tonumber(ARGV[10]), ARGV[11] == '1'
  if job then -- said twice: the first reply was lost
    status = job.state == 'q' and 0 or 1
  elseif terms.max_length >= 0 and lane.queued >= terms.max_length then
    local _, seq = head_of(lane)
    status, more = -1, { lane.queued, string.format('%.6f', now - seq / 1e6) }
  else
    pool.seq = math.max(pool.seq + 1, math.floor(now * 1e6))
    lane.weight = tonumber(ARGV[9])
    job = { lane = name, worker = worker, model = ARGV[6], prompt = tonumber(ARGV[7]), most = tonumber(ARGV[8]),
      seq = pool.seq, came = now, charged = 0, share = 1, turn = tonumber(ARGV[12]) }
    redis.call('SADD', P .. 'w:' .. worker, id)
    enqueue(lane, id, job)
    if seconds > 0 then aside(lane, seconds) end
    refresh(lane)
    dispatch()
    if granted[id] then
      more = { probing_grant and 1 or 0 }
    elseif at_once then
      unqueue(lane, id)
      forget(id, job)
      refresh(lane)
      status, more = -2, { string.format('%.6f', math.max((lane.parked or now) - now, pool.frozen - now)) }
    else
      status = 0
      redis.call('ZADD', P .. 'seen', now, name)
    end
  end
elseif verb == 'adopt' then -- a running call of a worker whose books were lost
  local id, lane = ARGV[4], lane_of(ARGV[5])
  if not record(id) then
    lane.weight = tonumber(ARGV[9])
    redis.call('SADD', P .. 'w:' .. worker, id)
    start(lane, id, { lane = ARGV[5], worker = worker, model = ARGV[6], prompt = tonumber(ARGV[7]),
      most = tonumber(ARGV[8]), seq = math.floor(now * 1e6), came = now, turn = tonumber(ARGV[10]) }, false)
    refresh(lane)
  end
elseif verb == 'park' then
  local id = ARGV[4]
  local job = record(id)
  if job and job.state == 'r' then
    local lane = lane_of(job.lane)
    stop(lane, id, job, 0)
    job.came, job.turn = now, tonumber(ARGV[6])
    enqueue(lane, id, job)
    aside(lane, tonumber(ARGV[5]))
    refresh(lane)
    dispatch()
  elseif job and job.state == 'q' then -- said twice
    job.turn = tonumber(ARGV[6])
    keep(id, job)
  else
    status = 0
  end
elseif verb == 'progress' then
  local id = ARGV[4]
  local job = record(id)
  if job and job.state == 'r' then
    local lane = lane_of(job.lane)
    local cost = job.prompt + terms.k * tonumber(ARGV[5])
    if cost > job.charged then
      correct(lane, job, cost)
      keep(id, job)
    end
    if lane.probe == id then lane.probe, lane.probing = '', false end
    refresh(lane)
    dispatch()
  else
    status = 0
  end
elseif verb == 'leave' or verb == 'cancel' then
  local id = ARGV[4]
  local job = record(id)
  if job then finish(id, job, tonumber(ARGV[5]), tonumber(ARGV[6])) else status = 0 end
  dispatch()
elseif verb == 'tick' then -- how many jobs of this worker are known here
  status = redis.call('SCARD', P .. 'w:' .. worker)
  dispatch()
elseif verb == 'mine' then
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'w:' .. worker)) do
    local job = record(id)
    if job and job.state == 'q' and not redis.call('ZSCORE', P .. 'q:' .. job.lane, id) then
      forget(id, job) -- its line is gone: it has to come again
    elseif job then
      more[#more + 1] = { id, job.state, job.probe and 1 or 0, job.turn or 0 }
    end
  end
elseif verb == 'bye' then
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'w:' .. worker)) do bury(id) end
  redis.call('DEL', P .. 'w:' .. worker, P .. 'box:' .. worker)
  redis.call('ZREM', P .. 'workers', worker)
  dispatch()
elseif verb == 'forget' then
  local name = ARGV[4]
  local lane = lane_of(name)
  status = redis.call('DEL', P .. 's:' .. name, P .. 'm:' .. name) + redis.call('ZREM', P .. 'seen', name)
  if lane.queued == 0 and lane.running == 0 then -- then it has no turn either
    status = status + redis.call('DEL', P .. 'l:' .. name)
    for _, list in ipairs({ 'idle', 'parked' }) do redis.call('ZREM', P .. list, name) end
    lanes[name] = nil
  end
elseif verb == 'state' then
  local rows = {}
  for _, name in ipairs(redis.call('ZREVRANGE', P .. 'seen', 0, tonumber(ARGV[4]) - 1)) do
    local lane, s = lane_of(name), redis.call('HMGET', P .. 's:' .. name, 'tokens', 'calls', 'waited', 'longest')
    rows[#rows + 1] = { name, lane.queued, lane.running, tostring(lane.weight), s[1] or '0', s[2] or '0', s[3] or '0',
      s[4] or '0', string.format('%.3f', lane.parked and lane.parked - now or 0) }
  end
  more = { redis.call('ZCARD', P .. 'ends'), pool.queued, rows }
end

for _, lane in pairs(lanes) do save(lane) end
redis.call('HSET', P, 'v', pool.v, 'top', pool.top, 'seq', string.format('%.0f', pool.seq), 'queued', pool.queued,
  'frozen', pool.frozen, 'beat', pool.beat, 'reap_after', pool.reap_after, 'turn', pool.in_turn, 'ahead', now - clock)
return { status, more, upcoming() }
