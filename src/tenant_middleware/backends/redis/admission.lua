-- Limits and budgets of one tenant, one atomic step per call. All keys share the tenant's slot.
-- KEYS: account (msgpack), held (hash id -> reservation), lost (hash, the same, expired), done (marker of this id),
--       outbox (stream of settled rows)
-- ARGV: operation, time ('' = this server's), id, period kind, its start, its end, then what the operation needs.
-- Units: seconds, tokens, nano-dollars. Lua's doubles count whole numbers exactly up to 2^53. -1 stands for unlimited.
-- Each run creates its functions anew, which costs more than a command; so there are few, and the rest is written out.
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

-- The account: run, kind of period and its edges (pk, ps, pe), money spent, reserved and lost (sp, rs, ls), level of
-- requests and tokens (rq, tk) at a time (at), calls in flight (n), when the next reservation expires (nx), how many
-- expired ones are kept (nl), and the money of the period before (old).
local packed = call('GET', A)
local a = packed and cmsgpack.unpack(packed)
  or { sp = 0, rs = 0, ls = 0, rq = 0, tk = 0, at = 0, n = 0, nx = 0, nl = 0 }

local function write() call('SET', A, cmsgpack.pack(a), 'KEEPTTL') end

-- A tenant that calls no more is forgotten a day after its period; the ledger knows what it spent.
local function keep(key) call('EXPIRE', key, math.max(math.ceil(a.pe - now), 0) + DAY) end

-- The money of a reservation's own period: the account's, or the closed one before it, kept for the books alone. When
-- the policy has changed the kind of period since, it is the account's.
local function book(held, field, nano)
  local m
  if held.k ~= a.pk or held.p == a.ps then
    m = a
  elseif a.old and held.p == a.old.ps then
    m = a.old
  end
  if m then m[field] = m[field] + nano end
end

-- A new period begins at nothing, and the one before is kept for late settles. Money lost in older ones is forgotten.
local function turn()
  a.old = { ps = a.ps, sp = a.sp, rs = a.rs, ls = a.ls }
  a.pk, a.ps, a.pe, a.sp, a.rs, a.ls = kind, start, stop, 0, 0, 0
  if a.nl > 0 then
    local all = call('HGETALL', L)
    for i = 1, #all, 2 do
      if cmsgpack.unpack(all[i + 1]).p < a.old.ps then call('HDEL', L, all[i]) end
    end
    a.nl = call('HLEN', L)
  end
  write()
  keep(A)
  keep(H)
end

local function denied(rule, limit, used, retry, resets, never)
  return { 'D', rule, struct.pack('<ddddd', limit, used, retry or -1, resets or -1, never and 1 or 0) }
end

local finishing = op == 'settle' or op == 'release'
local held, dead

if op == 'written' or op == 'seed' then
  -- Where the outbox stands: id of the last row ever added, and how many were.
  local last, added = '', 0
  if call('EXISTS', S) == 1 then
    local info = call('XINFO', 'STREAM', S)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then last = info[i + 1] end
      if info[i] == 'entries-added' then added = info[i + 1] end
    end
  end
  if op == 'written' then return { 'W', last, added } end
  -- ARGV 7: spent, by the ledger; 8 and 9: what `written` said before the ledger was read. Rows that came meanwhile
  -- are added here; when one of them has left for the ledger already, the answer is R (read it again).
  if a.run == RUN and a.pk == kind and now < a.pe then return { 'Y' } end
  local spent, since = tonumber(ARGV[7]), {}
  if added > 0 then since = call('XRANGE', S, ARGV[8] == '' and '-' or '(' .. ARGV[8], '+') end
  if #since ~= added - tonumber(ARGV[9]) then return { 'R' } end
  for _, entry in ipairs(since) do
    local row = cjson.decode(entry[2][2])
    if row.at - row.latency >= start then spent = spent + row.cost_nano end
  end
  if a.pk == kind and a.ps ~= start then
    turn()
  elseif a.pk ~= kind then
    a.sp = 0 -- of other periods; what calls in flight hold is theirs still
  end
  if not packed then -- the account alone is gone: what calls hold is still there
    for _, one in ipairs(call('HVALS', H)) do
      one = cmsgpack.unpack(one)
      a.n, a.rs = a.n + 1, a.rs + one.m
      if a.nx == 0 or one.e < a.nx then a.nx = one.e end
    end
    for _, one in ipairs(call('HVALS', L)) do
      a.nl, a.ls = a.nl + 1, a.ls + cmsgpack.unpack(one).m
    end
  end
  a.run, a.pk, a.ps, a.pe, a.sp = RUN, kind, start, stop, math.max(a.sp, spent)
  write()
  keep(A)
  return { 'Y' }
end

if finishing then
  if call('EXISTS', D) == 1 then return { 'N' } end
else
  -- P: ask again with the period of this time; U: this server doesn't know the tenant's spending.
  if a.run ~= RUN or a.pk ~= kind then
    return { (now < start or now >= stop) and 'P' or 'U', string.format('%.17g', now) }
  end
  if now >= a.pe and (now < start or now >= stop) then return { 'P', string.format('%.17g', now) } end
  if a.nx > 0 and now >= a.nx then
    local all, nearest = call('HGETALL', H), INF
    for i = 1, #all, 2 do
      local one = cmsgpack.unpack(all[i + 1])
      if one.e <= now then
        call('HDEL', H, all[i])
        call('HSET', L, all[i], all[i + 1])
        keep(L)
        book(one, 'rs', -one.m)
        book(one, 'ls', one.m)
        a.n, a.nl = a.n - 1, a.nl + 1
      elseif one.e < nearest then
        nearest = one.e
      end
    end
    a.nx = nearest == INF and 0 or nearest
    write()
  end
  if now >= a.pe then turn() end
end

local rpm, tpm, burst = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local most, budget = tonumber(ARGV[10]), tonumber(ARGV[11])
local rate_r, cap_r = rpm / 60, math.max(burst * rpm, 1)
local rate_t, cap_t, limit_t = tpm / 60, burst * tpm, tpm
if rpm < 0 then rate_r, cap_r = 0, INF end
if tpm < 0 then rate_t, cap_t, limit_t = 0, INF, INF end
if most < 0 then most = INF end
if budget < 0 then budget = INF end

-- Refill. A bucket that was never used, or unlimited until now, is full; a debt is taken after it, never before.
local back, passed = now < a.at, 0
if a.at == 0 then
  a.rq, a.tk = cap_r, cap_t
elseif not back then
  passed = now - a.at
end
a.rq = cap_r == INF and INF or math.min(a.rq + passed * rate_r, cap_r)
a.tk = cap_t == INF and INF or math.min(a.tk + passed * rate_t, cap_t)
a.at = now

if op == 'balance' then
  return { 'B', struct.pack('<ddddddd', a.rq, a.tk, a.n, a.sp, a.rs, a.ls, a.pe) }
end

packed = call('HGET', H, id)
if not packed and a.nl > 0 then
  packed = call('HGET', L, id)
  dead = packed and true
end
held = packed and cmsgpack.unpack(packed)

-- ARGV 12, 13: tokens and nano-dollars really used, 14: seconds to keep the marker, 15: the row or ''
if finishing then
  local tokens, nano = 0, 0
  if op == 'settle' then
    tokens, nano = tonumber(ARGV[12]), tonumber(ARGV[13])
  end
  if held then
    call('HDEL', dead and L or H, id)
    if dead then a.nl = a.nl - 1 else a.n = a.n - 1 end
    book(held, dead and 'ls' or 'rs', -held.m)
    book(held, 'sp', nano)
    tokens = tokens - held.t
  elseif a.pe then
    if a.run == RUN and now >= a.pe then
      if now < start or now >= stop then return { 'P', string.format('%.17g', now) } end
      turn()
    end
    a.sp = a.sp + nano
  end
  a.tk = a.tk - tokens
  -- Without an account this server has lost its memory: the row goes to the ledger, and the rebuilt account knows it.
  if a.pe then write() end
  call('SET', D, '', 'EX', ARGV[14])
  if op == 'settle' and ARGV[15] ~= '' then call('XADD', S, '*', 'row', ARGV[15]) end
  return { held and 'Y' or 'L' }
end

-- Reserve and extend. ARGV 12 to 18: prompt, most and least output, fixed nano-dollars, those of an output token, ttl,
-- nonce of this sending
local prompt, wanted, least = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local fixed, per_token, ttl, nonce = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18]
local extending = op == 'extend'

local function granted(output, tokens, nano, expires)
  local left = struct.pack('<ddddddd', a.rq, a.tk, a.n, a.sp, a.rs, a.ls, a.pe)
  return { 'G', struct.pack('<dddd', output, tokens, nano, expires) .. left }
end

if extending then
  if not held then return denied(call('EXISTS', D) == 1 and 'replayed' or 'unknown_call', 0, 0) end
  if held.xo == nonce then return granted(held.xw, held.xt, held.xm, held.e) end
elseif held and not dead and held.o == nonce then
  return granted(held.w, held.t, held.m, held.e)
elseif held or call('EXISTS', D) == 1 then
  return denied('replayed', 0, 0)
end

-- A reservation grows in the books of its own period.
local m = a
if extending and held.k == a.pk and a.old and held.p == a.old.ps then m = a.old end

-- The output that the budget pays for, at most `wanted`; -1 when it doesn't pay for the fixed part.
local output, room = wanted, budget - m.sp - m.ls - m.rs
if fixed + wanted * per_token > room and (wanted > 0 or fixed > 0) then
  output = (per_token == 0 or room < fixed) and -1 or math.floor((room - fixed) / per_token)
end
local cheapest = fixed + least * per_token
local tokens = prompt + (extending and output or math.max(output, least))
local need = math.min(tokens, cap_t)
local wait_r, wait_t = 0, 0 -- when both are short the longer wait decides: after it the call isn't told to wait again
if not extending and a.rq < 1 then wait_r = (1 - a.rq) / rate_r + 0.001 end
if tokens > 0 and a.tk < need then wait_t = (need - a.tk) / rate_t + 0.001 end

-- First what no short wait helps against, so that nobody waits in vain.
local answer
if not extending and tokens > limit_t then
  answer = denied('tpm', limit_t, tokens, nil, nil, true)
elseif output < least and m.sp + m.ls + cheapest > budget then
  answer = denied('budget', budget, m.sp + m.ls, nil, a.pe, cheapest > budget)
elseif extending and output < least then
  answer = denied('budget_busy', budget, m.sp + m.ls + m.rs, BUSY, a.pe)
elseif wait_r > 0 and wait_r >= wait_t then
  answer = denied('rpm', rpm, rpm - math.floor(a.rq), wait_r)
elseif wait_t > 0 then
  answer = denied('tpm', limit_t, limit_t - math.floor(a.tk), wait_t)
elseif not extending and a.n >= most then
  answer = denied('concurrency', most, a.n, BUSY)
elseif output < least then
  answer = denied('budget_busy', budget, m.sp + m.ls + m.rs, BUSY, a.pe)
end
if answer then
  if back then write() end -- a clock that was set back counts on from there
  return answer
end

local nano, expires = fixed + output * per_token, now + ttl
a.tk = a.tk - tokens
if a.nx == 0 or expires < a.nx then a.nx = expires end
if not extending then
  a.rq, a.rs, a.n = a.rq - 1, a.rs + nano, a.n + 1
  held = { k = a.pk, p = a.ps, w = output, t = tokens, m = nano, e = expires, o = nonce }
  if a.n == 1 then keep(H) end
else
  if dead then
    call('HDEL', L, id)
    book(held, 'ls', -held.m)
    book(held, 'rs', held.m)
    a.n, a.nl = a.n + 1, a.nl - 1
  end
  held.e, held.t, held.m = expires, held.t + tokens, held.m + nano
  held.xo, held.xw, held.xt, held.xm = nonce, output, tokens, nano
  book(held, 'rs', nano)
end
write()
call('HSET', H, id, cmsgpack.pack(held))
return granted(output, tokens, nano, expires)
