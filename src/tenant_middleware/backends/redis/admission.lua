-- Limits and budgets of one tenant, one atomic step per call. All keys share the tenant's slot.
-- KEYS: account (hash), held (hash id -> reservation), lost (hash, the same, expired), done (marker of this id),
--       outbox (stream of settled rows)
-- ARGV: operation, time ('' = this server's), id, period kind, its start, its end, then what the operation needs.
-- Units: seconds, tokens, nano-dollars. Lua's doubles count whole numbers exactly up to 2^53. -1 stands for unlimited.
-- The next line makes the script another one after each restart of a server, so that nobody's cached hash runs on a
-- server that may have lost memory: an account that this run has not verified answers U (rebuild it first).
local RUN = '@RUN@'
local A, H, L, D, S = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call, INF = redis.call, math.huge
local op, id = ARGV[1], ARGV[3]
local kind, start, stop = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local now = tonumber(ARGV[2])
if not now then
  local t = call('TIME')
  now = t[1] + t[2] / 1000000
end
local BUSY, DAY = 0.1, 86400

local NAMES = { 'run', 'pk', 'ps', 'pe', 'sp', 'rs', 'ls', 'rq', 'tk', 'at', 'n', 'nx' }
local a = {}

local function text(x) return string.format('%.17g', x) end

-- A tenant that calls no more is forgotten a day after its period; the ledger knows what it spent.
local function keep(key, period_end) call('EXPIRE', key, math.max(math.ceil(period_end - now), 0) + DAY) end

local function read()
  local v = call('HMGET', A, unpack(NAMES))
  for i = 5, 12 do v[i] = tonumber(v[i]) or 0 end
  a = { run = v[1], pk = v[2], ps = tonumber(v[3]), pe = tonumber(v[4]), sp = v[5], rs = v[6], ls = v[7],
        rq = v[8], tk = v[9], at = v[10], n = v[11], nx = v[12] }
end

local function write()
  call('HSET', A, 'sp', text(a.sp), 'rs', text(a.rs), 'ls', text(a.ls), 'rq', text(a.rq), 'tk', text(a.tk),
       'at', text(a.at), 'n', a.n, 'nx', text(a.nx))
end

-- Money of a reservation's own period: the account's, or the closed one before it, kept for the books alone.
local function book(held, field, nano)
  if nano == 0 then return end
  if held.k == a.pk and held.p == a.ps then
    a[field] = a[field] + nano
  elseif call('HEXISTS', A, field .. ':' .. text(held.p)) == 1 then
    call('HINCRBY', A, field .. ':' .. text(held.p), text(nano))
  end
end

local function expire()
  local all, nearest = call('HGETALL', H), INF
  for i = 1, #all, 2 do
    local held = cmsgpack.unpack(all[i + 1])
    if held.e <= now then
      call('HDEL', H, all[i])
      call('HSET', L, all[i], all[i + 1])
      keep(L, a.pe)
      book(held, 'rs', -held.m)
      book(held, 'ls', held.m)
      a.n = a.n - 1
    elseif held.e < nearest then
      nearest = held.e
    end
  end
  a.nx = nearest == INF and 0 or nearest
end

-- A new period begins at nothing, and the one before is kept for late settles. Money lost in older ones is forgotten.
local function turn()
  local older = call('HGET', A, 'pp')
  for _, field in ipairs({ 'sp', 'rs', 'ls' }) do
    if older then call('HDEL', A, field .. ':' .. older) end
    call('HSET', A, field .. ':' .. text(a.ps), text(a[field]))
    a[field] = 0
  end
  local all = call('HGETALL', L)
  for i = 1, #all, 2 do
    if cmsgpack.unpack(all[i + 1]).p < a.ps then call('HDEL', L, all[i]) end
  end
  call('HSET', A, 'pk', kind, 'ps', text(start), 'pe', text(stop), 'pp', text(a.ps))
  a.pk, a.ps, a.pe = kind, start, stop
  keep(A, stop)
  keep(H, stop)
  write()
end

-- Brings the account to this moment. Returns an answer when it can't: P (ask again with the period of this time),
-- U (this server doesn't know the tenant's spending; rebuild it from the ledger).
local function bring()
  read()
  if a.run ~= RUN or a.pk ~= kind or not a.pe then
    if now < start or now >= stop then return { 'P', text(now) } end
    return { 'U', text(now) }
  end
  if now >= a.pe and (now < start or now >= stop) then return { 'P', text(now) } end
  if a.nx > 0 and now >= a.nx then
    expire()
    write()
  end
  if now >= a.pe then turn() end
end

local rate_r, cap_r, rate_t, cap_t, limit_t, most, budget

local function limits(i)
  local rpm, tpm, burst = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  most, budget = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  rate_r, cap_r = rpm / 60, math.max(burst * rpm, 1)
  rate_t, cap_t, limit_t = tpm / 60, burst * tpm, tpm
  if rpm < 0 then rate_r, cap_r = 0, INF end
  if tpm < 0 then rate_t, cap_t, limit_t = 0, INF, INF end
  if most < 0 then most = INF end
  if budget < 0 then budget = INF end
end

local function refill()
  -- A bucket that was never used, or unlimited until now, is full; 'inf' survives as text.
  if a.at == 0 then a.rq, a.tk = cap_r, cap_t end
  local passed = a.at == 0 and 0 or math.max(now - a.at, 0)
  a.back = now < a.at
  a.rq = cap_r == INF and INF or math.min(a.rq + passed * rate_r, cap_r)
  a.tk = cap_t == INF and INF or math.min(a.tk + passed * rate_t, cap_t)
  a.at = now
end

local function whole(x)
  if x == INF then return -1 end
  return math.max(math.floor(x), 0)
end

-- Numbers past 2^31 are exact only as text; Redis cuts fractions off Lua numbers.
local function left()
  return whole(a.rq), whole(a.tk), a.n, text(a.sp), text(a.rs), text(a.ls), text(a.pe)
end

local function granted(output, tokens, nano, expires)
  return { 'G', output, tokens, text(nano), text(expires), left() }
end

local function denied(rule, limit, used, retry, resets, never)
  return { 'D', rule, text(limit), text(used), retry and text(retry) or '', resets and text(resets) or '',
           never and 1 or 0 }
end

local function rate(rule, limit, level, need, per_second)
  return denied(rule, limit, limit - math.floor(level), (need - level) / per_second + 0.001)
end

-- The money of the period that a reservation was taken in.
local function money(held)
  if held.k ~= a.pk or held.p ~= a.ps then
    local p = text(held.p)
    local v = call('HMGET', A, 'sp:' .. p, 'rs:' .. p, 'ls:' .. p)
    if v[1] then return { sp = tonumber(v[1]), rs = tonumber(v[2]), ls = tonumber(v[3]) } end
  end
  return a
end

local function no_money(least, m)
  local charged = m.sp + m.ls
  if charged + least > budget then return denied('budget', budget, charged, nil, a.pe, least > budget) end
  return denied('budget_busy', budget, charged + m.rs, BUSY, a.pe)
end

-- The output that the budget pays for, at most `wanted`; -1 when it doesn't pay for the fixed part.
local function affordable(wanted, fixed, per_token, m)
  if wanted == 0 and fixed == 0 then return 0 end
  local room = budget - m.sp - m.ls - m.rs
  if fixed + wanted * per_token <= room then return wanted end
  if per_token == 0 or room < fixed then return -1 end
  return math.floor((room - fixed) / per_token)
end

local function is_done() return call('EXISTS', D) == 1 end

local function held_of(hash)
  local packed = call('HGET', hash, id)
  return packed and cmsgpack.unpack(packed)
end

local function hold(held) call('HSET', H, id, cmsgpack.pack(held)) end

local OP = {}

function OP.reserve()
  local answer = bring()
  if answer then return answer end
  limits(7)
  refill()
  local prompt, wanted, least = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
  local fixed, per_token, ttl, nonce = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18]
  local held = held_of(H)
  if held then
    if held.o ~= nonce then return denied('replayed', 0, 0) end
    return granted(held.w, held.t, held.m, held.e)
  end
  if is_done() or call('HEXISTS', L, id) == 1 then return denied('replayed', 0, 0) end
  local output = affordable(wanted, fixed, per_token, a)
  local tokens = prompt + math.max(output, least)
  local cheapest = fixed + least * per_token
  -- First what no short wait helps against, so that nobody waits in vain.
  if tokens > limit_t then
    answer = denied('tpm', limit_t, tokens, nil, nil, true)
  elseif a.sp + a.ls + cheapest > budget then
    answer = no_money(cheapest, a)
  elseif a.rq < 1 then
    answer = rate('rpm', tonumber(ARGV[7]), a.rq, 1, rate_r)
  elseif a.tk < math.min(tokens, cap_t) then
    answer = rate('tpm', limit_t, a.tk, math.min(tokens, cap_t), rate_t)
  elseif a.n >= most then
    answer = denied('concurrency', most, a.n, BUSY)
  elseif output < least then
    answer = no_money(cheapest, a)
  end
  if answer then
    if a.back then write() end -- a clock that was set back counts on from there
    return answer
  end
  local nano, expires = fixed + output * per_token, now + ttl
  a.rq, a.tk, a.rs, a.n = a.rq - 1, a.tk - tokens, a.rs + nano, a.n + 1
  if a.nx == 0 or expires < a.nx then a.nx = expires end
  write()
  hold({ k = a.pk, p = a.ps, w = output, t = tokens, m = nano, e = expires, o = nonce })
  if a.n == 1 then keep(H, a.pe) end
  return granted(output, tokens, nano, expires)
end

function OP.extend()
  local answer = bring()
  if answer then return answer end
  limits(7)
  refill()
  local prompt, wanted, least = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
  local fixed, per_token, ttl, nonce = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18]
  local held, dead = held_of(H), false
  if not held then
    held, dead = held_of(L), true
  end
  if not held then return denied(is_done() and 'replayed' or 'unknown_call', 0, 0) end
  if held.xo == nonce then return granted(held.xw, held.xt, held.xm, held.e) end
  local m = money(held)
  local output = affordable(wanted, fixed, per_token, m)
  local tokens, cheapest = prompt + output, fixed + least * per_token
  if output < least then
    answer = no_money(cheapest, m)
  elseif tokens > 0 and a.tk < math.min(tokens, cap_t) then
    answer = rate('tpm', limit_t, a.tk, math.min(tokens, cap_t), rate_t)
  end
  if answer then return answer end
  if dead then
    call('HDEL', L, id)
    book(held, 'ls', -held.m)
    book(held, 'rs', held.m)
    a.n = a.n + 1
  end
  local nano = fixed + output * per_token
  held.e, held.t, held.m = now + ttl, held.t + tokens, held.m + nano
  held.xo, held.xw, held.xt, held.xm = nonce, output, tokens, nano
  a.tk = a.tk - tokens
  book(held, 'rs', nano)
  if a.nx == 0 or held.e < a.nx then a.nx = held.e end
  write()
  hold(held)
  return granted(output, tokens, nano, held.e)
end

-- ARGV 7 to 11: the limits; then tokens and nano-dollars really used, seconds to keep the marker, the row or ''
local function finish(tokens, nano)
  if is_done() then return { 'N' } end
  read()
  local held, field, hash = held_of(H), 'rs', H
  if not held then
    held, field, hash = held_of(L), 'ls', L
  end
  if a.pe then
    limits(7)
    refill() -- before a debt is taken: a bucket that ran over meanwhile must not pay for it
  end
  if held then
    call('HDEL', hash, id)
    if hash == H then a.n = a.n - 1 end
    book(held, field, -held.m)
    book(held, 'sp', nano)
    tokens = tokens - held.t
  elseif a.pe then
    if a.run == RUN and now >= a.pe then
      if now < start or now >= stop then return { 'P', text(now) } end
      turn()
    end
    a.sp = a.sp + nano
  end
  a.tk = a.tk - tokens
  -- Without an account this server has lost its memory: the row goes to the ledger, and the rebuilt account knows it.
  if a.pe then write() end
  call('SET', D, '', 'EX', ARGV[14])
  return { held and 'Y' or 'L' }
end

function OP.settle()
  local answer = finish(tonumber(ARGV[12]), tonumber(ARGV[13]))
  if answer[1] ~= 'N' and answer[1] ~= 'P' and ARGV[15] ~= '' then call('XADD', S, '*', 'row', ARGV[15]) end
  return answer
end

function OP.release() return finish(0, 0) end

function OP.balance()
  local answer = bring()
  if answer then return answer end
  limits(7)
  refill()
  return { 'B', left() }
end

-- ARGV 7: spent, by the ledger; 8: id of the last outbox row that is in it, or ''
function OP.seed()
  read()
  -- Somebody else has made the account meanwhile; rows that settle since then are no reason to try again.
  if a.run == RUN and a.pk == kind and a.pe and now < a.pe then return { 'Y' } end
  local last = call('XREVRANGE', S, '+', '-', 'COUNT', 1)
  if #last > 0 and last[1][1] ~= ARGV[8] then return { 'R' } end
  if a.pk ~= kind or a.ps ~= start then
    a.sp, a.rs, a.ls = 0, 0, 0
  end
  a.sp = math.max(a.sp, tonumber(ARGV[7]))
  a.pk, a.ps, a.pe = kind, start, stop
  call('HSET', A, 'run', RUN, 'pk', kind, 'ps', text(start), 'pe', text(stop))
  keep(A, stop)
  write()
  return { 'Y' }
end

return OP[op]()
