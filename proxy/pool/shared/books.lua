-- The books of a pool. All keys begin with KEYS[1]. ARGV: what to do, the process, the run id of the
-- server that it talks to and the state that it knows, then an operation's own (see `ops`). Moments
-- are us on the lease clock, which goes by the server's, at most 5 s since the last beat of any
-- process and not back beyond it, so that a step of that one ends nothing.
--   meta      state: run and id; @PROCESS: the same, where it has a part in it; times: wall, clock, the
--             end of the grace; the last rank
--   procs     processes, by when they expire
--   p:PROCESS number -> a lease: client, when it began, its trials, rank, model; or an ask, which
--             waits: ?, when it may have again what it tried, s (its session chooses), rank, roster,
--             tried, excluded
--   n         client -> in flight; "client KIND model" -> a breaker: s service, p payment, q quota,
--             r rest; "client o": disabled; "client !": there are, or were, such
--   m:ROSTER  "#TIER" -> its present turn; client -> permits step tier model; "client t" -> its turn,
--             while it is not among rTIER:ROSTER, the ready ones by turn; "#out": are some in x: or y:
--   x: y:     ROSTER: who is shut, who rests, by its end
--   caller:C  what a caller has spent of each limit, and when; all is forgotten after a week
--   w:ROSTER  asks that wait, by rank
--   k:CLIENT  rosters that look at it again when it comes free, by a rank that none who waits there
--             is before; found out when it matters
--   un        asks that were served and do not know it yet, by when that is taken back
--   rosters   by when they were last used, but for the last minute
local S, DAY, INF = 1e6, 86400e6, 1 / 0
local TTL, GRACE, TRIAL, ACK, ROSTER = 12 * S, 3 * S, 2 * S, 2 * S, 3600 * S
local MOST_AHEAD, MOST_LOOKS = 64, 64
local BOUNDS = {s = {60, 1800}, p = {60, 1800}, q = {1, 300}, r = {1, 60}}  -- see `health`
local READY, RESTING, ON_TRIAL, TRYING, COOLING = 0, 1, 2, 3, 4
local call, P, N, A, me, wall, clock, moment, grace, last, turns  -- of this call
local told, told_wall, told_clock, told_grace  -- the times that were read last, and what they say
local ALWAYS, ops = {beat = true, processes = true, bury = true}, {}

-- Whether the process has a part in the state, by the clock of now.
local function enter()
  local time = redis.call('TIME')
  wall = time[1] * S + time[2]
  local meta = call('HMGET', P .. 'meta', 'times', 'rank', '@' .. me)
  if meta[1] ~= told then
    local before, at, ends = string.match(meta[1] or '', '^(%d+) (%d+) (%d+)$')
    told, told_wall, told_clock, told_grace = meta[1], tonumber(before), tonumber(at), tonumber(ends or 0)
  end
  clock, grace, last = wall, told_grace, tonumber(meta[2] or 0)
  if told_clock then clock = told_clock + math.max(0, math.min(wall - told_wall, 5 * S)) end
  return meta[3] == A[3]
end
local function int(n)
  if n ~= clock then return string.format('%d', n) end
  moment = moment or string.format('%d', n)
  return moment
end
local function mine(number) return number .. '@' .. me end
local function has(list, c) return list ~= ',' and string.find(list, ',' .. c .. ',', 1, true) end

local function read(text, field)  -- a breaker
  local state, ends, since, failures, shut, trial, began, cause =
    string.match(text or '0 0 0 0 0 - 0 ', '^(%d) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (.*)$')
  return {field = field, state = tonumber(state), ends = tonumber(ends), since = since, cause = cause,
    trial = trial, failures = tonumber(failures), shut = tonumber(shut), began = tonumber(began)}
end
local function find(field) return read(call('HGET', N, field), field) end
local function write(b)
  call('HSET', N, string.match(b.field, '^%S+') .. ' !', 1, b.field,
    string.format('%d %d %s %d %d %s %d %s', b.state, b.ends, b.since, b.failures, b.shut, b.trial,
      b.began, b.cause))
end
local function field_of(c, kind, model) return c .. ' ' .. kind .. (kind == 's' and '' or ' ' .. model) end
local function open(b, state)  -- -1: and forget its failures
  b.state, b.ends, b.trial = READY, 0, '-'
  if state < READY then b.failures = 0 end
  write(b)
end
local function stands(b)  -- see `Breaker.standing`
  if not b or b.state == READY then return READY, INF end
  if clock < b.ends then return b.state, b.ends end
  if b.trial == '-' then return ON_TRIAL, INF end
  if clock < b.began + TRIAL then return TRYING, b.began + TRIAL end
  return READY, INF
end

-- An offer: how a client of a roster stands now, and whether it has a permit left.
local function look(R, c, turn)
  local said = turn and call('HMGET', P .. 'm:' .. R, c) or call('HMGET', P .. 'm:' .. R, c, c .. ' t')
  if not said[1] then return nil end
  local permits, step, tier, model = string.match(said[1], '^(%d+) (%d+) (%S+) (.*)$')
  local n, h = call('HMGET', N, c, c .. ' !'), {}
  if n[2] then
    h = call('HMGET', N, c .. ' s', c .. ' p ' .. model, c .. ' q ' .. model, c .. ' r ' .. model,
      c .. ' o')
  end
  local is_free = not h[5] and (permits == '0' or n[1] == '0' or tonumber(n[1] or 0) < tonumber(permits))
  local worst, ends, is_troubled, trials, ready = READY, INF, false, '', P .. 'r' .. tier .. ':' .. R
  for i = 1, n[2] and 4 or 0 do
    local b = h[i] and read(h[i])
    local state, till = stands(b)
    if state == ON_TRIAL then trials = trials .. string.sub('spq', i, i) end
    is_troubled = is_troubled or (b and (b.state ~= READY or b.failures > 0))
    if b and i == 4 then  -- it only puts behind others
      if clock < b.ends and worst <= ON_TRIAL then worst, ends = RESTING, b.ends end
    elseif state > worst or (state == worst and till > ends) then
      worst, ends = state, till
    end
  end
  if clock < grace then worst, ends = COOLING, grace end  -- others may hold what is not known yet
  return {c = c, R = R, step = tonumber(step), tier = tier, model = model, state = worst, ends = ends,
    turn = tonumber(turn or call('ZSCORE', ready, c) or said[2] or 0), is_free = is_free, ready = ready,
    is_troubled = is_troubled, is_usable = is_free and (worst == READY or worst == ON_TRIAL),
    is_lendable = is_free and worst <= ON_TRIAL, trials = trials}
end
-- The present turn of its tier, also when that moves on.
local function present(o, moved_to)
  local key = o.R .. '#' .. o.tier
  if moved_to then call('HSET', P .. 'm:' .. o.R, '#' .. o.tier, int(moved_to)) end
  turns[key] = moved_to or turns[key] or tonumber(call('HGET', P .. 'm:' .. o.R, '#' .. o.tier) or 0)
  return turns[key]
end
local function settle(o)  -- look at it again at its turn
  call('ZADD', o.ready, 'NX', math.max(o.turn, present(o)), o.c)
  call('ZREM', P .. 'x:' .. o.R, o.c)
  call('ZREM', P .. 'y:' .. o.R, o.c)
end
local function park(o)  -- it is not to be had: put it where the change will be noticed
  call('ZREM', o.ready, o.c)
  call('HSET', P .. 'm:' .. o.R, o.c .. ' t', o.turn)
  if o.ends < INF then
    call('HSET', P .. 'm:' .. o.R, '#out', 1)
    call('ZADD', P .. (o.state == RESTING and 'y:' or 'x:') .. o.R, o.ends, o.c)
  end
  call('ZADD', P .. 'k:' .. o.c, 0, o.R)
end
local function is_before(o, other, by)  -- by tiers, then by this
  if other and o.tier ~= other.tier then return tonumber(o.tier) < tonumber(other.tier) end
  return not other or o[by] < other[by]
end
local function is_new(t, c) return not has(t.tried, c) and not has(t.excluded, c) end

-- The best client that this ask can have now; see `ModelQueue.best`.
local function best(t)
  local R, found = t.R, nil
  for tier in string.gmatch(t.tiers, '[^,]+') do
    local key, at = P .. 'r' .. tier .. ':' .. R, '0'
    local top = call('ZRANGE', key, at, at, 'WITHSCORES')
    while top[1] do
      local o = look(R, top[1], top[2])
      if not o.is_usable then
        park(o)
      elseif not is_new(t, o.c) then
        at = at + 1
      else
        if t.prefer[1] and o.turn > present(o) then present(o, o.turn) end
        for _, preferred in ipairs(t.prefer) do
          local other = is_new(t, preferred) and look(R, preferred)
          if other and other.tier == o.tier and other.is_usable then return other end
        end
        return o
      end
      top = call('ZRANGE', key, at, at, 'WITHSCORES')
    end
  end
  for _, c in ipairs(call('ZRANGE', P .. 'y:' .. R, 0, -1)) do
    local o = is_new(t, c) and look(R, c)
    if o and o.is_free and o.state == RESTING and is_before(o, found, 'ends') then found = o end
  end
  for c in string.gmatch(not found and clock >= t.at and t.tried or '', '[^,]+') do
    local o = not has(t.excluded, c) and look(R, c)
    if o and o.is_lendable and is_before(o, found, 'turn') then found = o end
  end
  return found
end

-- A permit comes into use. False: the number stands for something already, and nothing is done.
local function take(process, number, c, began, trials, rank, model)
  local about = c .. ' ' .. int(began) .. ' ' .. trials .. ' ' .. int(rank) .. ' ' .. model
  if call('HSETNX', P .. 'p:' .. process, number, about) == 0 then return false end
  call('HINCRBY', N, c, '1')
  return true
end
local function lend(o, t)  -- nil: as `take`
  local watched = o.trials ~= '' and 't' or o.is_troubled and 'w' or '-'
  if not take(t.process, t.number, o.c, clock, o.trials .. watched, t.rank, o.model) then return nil end
  local now, at = present(o), o.turn
  if t.marks == 's' then at = math.min(at, now + MOST_AHEAD * o.step)
  elseif at > now then present(o, at) end
  local after = int(at + o.step)
  if call('ZADD', o.ready, 'XX', 'CH', after, o.c) == 0 then
    call('HSET', P .. 'm:' .. o.R, o.c .. ' t', after)
  end
  for i = 1, #o.trials do
    local b = find(field_of(o.c, string.sub(o.trials, i, i), o.model))
    b.trial, b.began = t.id, clock
    write(b)
  end
  return {'G', t.rank, o.c, clock, watched, o.model}
end
-- What NUMBER@PROCESS is: a lease, or an ask, which has a roster.
local function paper(id)
  local number, process = string.match(id, '^(%d+)@(.*)$')
  local said = number and call('HGET', P .. 'p:' .. process, number)
  if not said then return nil end
  local l = {id = id, process = process, number = number}
  l.c, l.at, l.marks, l.rank, l.model = string.match(said, '^(%S+) (%d+) (%S+) (%d+) (.*)$')
  l.at, l.rank = tonumber(l.at), tonumber(l.rank)
  if l.c == '?' then l.R, l.tried, l.excluded = string.match(l.model, '^(%S+) (%S+) (%S+)$') end
  return l
end

-- The first in rank who could take this client now, and its offer. Where nobody may have it that is
-- free, newcomers may.
local function first_waiter(c)
  local k, at, found, offer = P .. 'k:' .. c, '0', nil, nil
  while at ~= MOST_LOOKS do
    local top = call('ZRANGE', k, at, at, 'WITHSCORES')
    local R, least = top[1], tonumber(top[2])
    if not R or (found and least >= found.rank) then break end
    local head = call('ZRANGE', P .. 'w:' .. R, '0', '0', 'WITHSCORES')
    if head[1] and tonumber(head[2]) > least then
      call('ZADD', k, head[2], R)
    else
      local o, fit = look(R, c), nil
      for i = 0, o and o.is_lendable and MOST_LOOKS - 1 or -1 do
        local id = call('ZRANGE', P .. 'w:' .. R, i, i)[1]
        local t = id and paper(id)
        if t and not has(t.excluded, c) and (clock >= t.at or not has(t.tried, c)) then fit = t end
        if id and not t then call('ZREM', P .. 'w:' .. R, id) end  -- this should not be
        if fit or not id then break end
      end
      if fit and (not found or fit.rank < found.rank) then found, offer = fit, o end
      if o and not fit and (o.is_free or not head[1]) then settle(o) end
      if head[1] then at = at + 1 else call('ZREM', k, R) end
    end
  end
  return found, offer
end
-- End a lease, or an ask. The client whose permit it was, if it was still in use.
local function put_back(l)
  if call('HDEL', P .. 'p:' .. l.process, l.number) == 0 then return nil end
  if l.R then
    call('ZREM', P .. 'w:' .. l.R, l.id)
    return nil
  end
  call('HINCRBY', N, l.c, '-1')
  for i = 1, #l.marks - 1 do  -- the last is no trial
    local b = find(field_of(l.c, string.sub(l.marks, i, i), l.model))
    if b.trial == l.id then
      if clock >= b.began + TRIAL then b.state = READY end
      b.trial = '-'
      write(b)
    end
  end
  return l.c
end
-- Serve an ask that waits, and tell its process. False: that hears nothing now, and will ask again.
local function hand_over(t, o)
  local ear = P .. 'to:' .. t.process
  put_back(t)
  if call('PUBSUB', 'NUMSUB', ear)[2] == 0 then return false end
  lend(o, t)
  call('PUBLISH', ear, t.number)
  call('ZADD', P .. 'un', clock + ACK, t.id)
  return true
end
-- Hand so many of the client's permits to those who wait for them, if they are free.
local function serve(c, most)
  for t, o in first_waiter, c do
    if hand_over(t, o) then most = most - 1 end
    if most == 0 then return end
  end
end
-- End all that a process has; of one that does not hear only what waits, until it asks again.
local function bury(process, is_alive)
  local freed = {}
  for _, number in ipairs(call('HKEYS', P .. 'p:' .. process)) do
    local l = paper(number .. '@' .. process)
    if l.R or not is_alive then freed[#freed + 1] = put_back(l) end
  end
  if not is_alive then
    call('ZREM', P .. 'procs', process)
    call('HDEL', P .. 'meta', '@' .. process)
  end
  for _, c in ipairs(freed) do serve(c, 1) end
end
-- Take back what was not taken up in time. The second look is for what a stall held up.
local function revoke()
  local late = call('ZRANGEBYSCORE', P .. 'un', '-inf', clock, 'LIMIT', 0, 16)
  for _, id in ipairs(late) do
    local is_second = string.sub(id, -1) == '!'
    local l = is_second and paper(string.sub(id, 1, -2))
    call('ZREM', P .. 'un', id)
    if not is_second then call('ZADD', P .. 'un', clock + ACK / 2, id .. '!') end
    if l and not l.R then
      bury(l.process, true)
      serve(put_back(l), 1)
    end
  end
  return late[1]
end
local function drop(R)
  for _, field in ipairs(call('HKEYS', P .. 'm:' .. R)) do
    if string.sub(field, 1, 1) == '#' then call('DEL', P .. 'r' .. string.sub(field, 2) .. ':' .. R) end
  end
  call('DEL', P .. 'm:' .. R, P .. 'x:' .. R, P .. 'y:' .. R, P .. 'w:' .. R)
  call('ZREM', P .. 'rosters', R)
end

-- Number, roster, its tiers in order; then, where it is more than a first ask for any of them, rank or
-- '', back-off left, tried, excluded, and the clients that a session prefers. Idempotent by the number:
-- what it was lent, or handed, it has from now on. A first ask is looked up where that turns out to matter.
function ops.acquire(is_known)
  local number, R, id = A[4], A[5], mine(A[4])
  local old = (is_known or A[7]) and paper(id)
  if old and not old.R then
    call('ZREM', P .. 'un', id, id .. '!')
    return {'G', old.rank, old.c, old.at, string.sub(old.marks, -1), old.model}
  end
  local m, tier = P .. 'm:' .. R, '#' .. string.match(A[6] or '', '^[^,]*')
  local said = call('HMGET', m, tier, '#out')
  if not said[1] then return {'U'} end
  turns[R .. tier] = tonumber(said[1])
  if said[2] == '1' then
    for _, where in ipairs({'x:', 'y:'}) do
      for _, c in ipairs(call('ZRANGEBYSCORE', P .. where .. R, '-inf', clock)) do settle(look(R, c)) end
    end
    if call('EXISTS', P .. 'x:' .. R, P .. 'y:' .. R) == 0 then call('HSET', m, '#out', 0) end
  end
  local known = old and old.rank or tonumber(A[7])
  local rank = known or math.max(last + 1, clock)
  if not known then call('HSET', P .. 'meta', 'rank', int(rank)) end
  local t = {id = id, process = me, number = number, R = R, tiers = A[6], rank = rank, tried = A[9] or ',',
    excluded = A[10] or ',', at = clock + (A[8] or 0), marks = A[11] and 's' or '-', prefer = {unpack(A, 11)}}
  if old and old.R ~= R then put_back(old) end
  for o in best, t do
    local first, offer = first_waiter(o.c)
    if not old and first and first.id == id then return ops.acquire(true) end
    if not first or first.rank >= rank then
      if old then put_back(old) end
      return lend(o, t) or ops.acquire(true)
    end
    hand_over(first, offer)
  end
  local about = string.format('? %d %s %d %s %s %s', t.at, t.marks, rank, R, t.tried, t.excluded)
  if old then call('HDEL', P .. 'p:' .. me, number) end
  if call('HSETNX', P .. 'p:' .. me, number, about) == 0 then return ops.acquire(true) end
  call('ZADD', P .. 'w:' .. R, rank, id)
  local ahead = call('ZRANK', P .. 'w:' .. R, id)
  if ahead == 0 and known then
    for _, c in ipairs(call('HKEYS', m)) do call('ZADD', P .. 'k:' .. c, 'XX', 'LT', rank, R) end
  end
  -- What it tried may still be among the ready, where others would overtake it.
  for c in string.gmatch(t.tried, '[^,]+') do call('ZADD', P .. 'k:' .. c, 'NX', 0, R) end
  if revoke() and not (paper(id) or {}).R then return ops.acquire(true) end
  return {'W', rank, math.max(0, grace - clock), ahead, clock, call('HGETALL', N)}
end

-- A lease, or an ask that waits no longer: number, then client, or '' where more is to be seen to.
-- Idempotent. The usual one needs no clock.
function ops.release()
  local l = {process = me, number = A[4], c = A[5], marks = '-'}
  if l.c == '' then l = paper(mine(A[4])) end
  local c = l and (l.R or l.marks == '-' or enter()) and put_back(l)
  if c and call('EXISTS', P .. 'k:' .. c) == 1 and (clock or enter()) then serve(c, 1) end
end

-- Client, model, when the lease began, the kinds of breakers that it says something of, state (-1: it
-- is well), the cause, how long a cooldown may be, and how long the one was asked for, if it was. What
-- is older than the last failure is no news. See `Health.apply`.
function ops.report()
  local c, began, state = A[4], tonumber(A[6]), tonumber(A[8])
  for kind in string.gmatch(A[7], '.') do
    local b = find(field_of(c, kind, A[5]))
    local wait, is_news = state == COOLING and A[11] and tonumber(A[11]), began >= b.shut
    if state <= READY and is_news and b.shut > 0 then
      open(b, state)
    elseif state > READY and (wait or is_news) then
      wait = wait or math.min(BOUNDS[kind][2], BOUNDS[kind][1] * 2 ^ math.min(b.failures, 32)) * S
      if is_news then b.failures, b.shut = b.failures + 1, clock end
      if b.state == READY then b.since = int(clock) end
      b.state, b.cause, b.trial = state, A[9], '-'
      b.ends = math.max(b.ends, clock + math.min(wait, state == COOLING and A[10] or INF))
      write(b)
    end
  end
  if state <= READY then serve(c, MOST_LOOKS) end
  if state > RESTING then call('PUBLISH', P .. 'all', '-' .. c) end
end

-- Client, whether it is disabled: 1, 0, or '' to open its breakers, all or those of the models that
-- are named. Who waits for it looks again.
function ops.change()
  local c, is_named = A[4], {}
  for i = 6, #A do is_named[A[i]] = true end
  for _, field in ipairs(A[5] == '' and call('HKEYS', N) or {}) do
    local whose, kind, model = string.match(field, '^(%S+) ([spqr]) ?(.*)$')
    if whose == c and (not A[6] or (is_named[model] and kind ~= 's')) then open(find(field), -1) end
  end
  if A[5] == '1' then call('HSET', N, c .. ' o', 1, c .. ' !', 1) end
  if A[5] == '0' then call('HDEL', N, c .. ' o') end
  serve(c, MOST_LOOKS)
  call('PUBLISH', P .. 'all', '-' .. c)
end

-- Number or '', a caller, how many of its requests may be in flight. Then four each of its limits, of
-- requests and tokens a minute (see `limits.Cell`) and a day (UTC): how much, 0: no limit; what was
-- spent of it for sure; what is spent now. What was spent before, and before it 2; where there is a
-- number also 0: it is refused, as no place is left, or 1: as a limit leaves nothing.
function ops.spend()
  local c, places, is_known, is_in, found = A[5], tonumber(A[6]), paper(mine(A[4])), true, {2}
  local is_ask, said = A[4] ~= '' and not is_known, call('GET', P .. c) or '0 0 0 0 0 0'
  if is_ask and places > 0 and tonumber(call('HGET', N, c) or 0) >= places then return {0} end
  local old = {string.match(said, '^(%S+) (%S+) (%S+) (%S+) (%d+) (%d+)$')}
  local for_s, is_today = math.max(0, clock - old[5]) / S, old[6] - (wall - wall % DAY) >= 0
  for i = 1, 4 do
    local most, n = tonumber(A[6 + i]), tonumber(old[i])
    n = math.max(A[10 + i], i < 3 and n - for_s * most / 60 or i > 2 and is_today and n or 0)
    is_in = is_in and (most == 0 or most - n + (i < 3 and 1e-6 / (60 / most) or 0) >= 1)
    found[i + 1] = string.format('%.17g', n)
    old[i] = string.format('%.17g', most > 0 and n + A[14 + i] or 0)
  end
  if is_known then return found end  -- it asks again
  if is_ask and not is_in then return {1, unpack(found, 2)} end
  old[5], old[6] = int(clock), int(wall)
  call('SET', P .. c, table.concat(old, ' '), 'EX', 7 * DAY / S)
  if is_ask and places > 0 then take(me, A[4], c, clock, '-', 0, '') end
  return found
end

-- A roster that is in use; where it is new, six of each client: it, permits, step, tier, turn, model.
function ops.roster()
  local m = P .. 'm:' .. A[4]
  for i = 5, call('EXISTS', m) == 0 and #A or 0, 6 do
    local about = table.concat({A[i + 1], A[i + 2], A[i + 3], A[i + 5]}, ' ')
    call('HSET', m, '#out', 0, '#' .. A[i + 3], 0, A[i], about)
    call('ZADD', P .. 'r' .. A[i + 3] .. ':' .. A[4], A[i + 4], A[i])
  end
  call('ZADD', P .. 'rosters', clock, A[4])
end

-- The highest rank seen, clients that are disabled, then five of each lease
-- that the books may lack: number, client, age, rank, model. The process lives; the dead are buried.
--
-- What a server says that is not the one which wrote it is not trusted: it may be as old as its last
-- save. Then nothing is lent for a grace, in which every process says what it holds; nor where a
-- process knew of a state that is gone.
function ops.beat()
  local here, known = string.match(A[3], '^(%S+) (.*)$')
  local run, id = string.match(call('HGET', P .. 'meta', 'state') or '', '^(%S+) (.*)$')
  if run ~= here then
    for _, process in ipairs(ops.processes()) do call('DEL', P .. 'p:' .. process) end
    for _, R in ipairs(call('ZRANGE', P .. 'rosters', 0, -1)) do drop(R) end
    call('DEL', P .. 'procs', N, P .. 'un', P .. 'meta')
    id = int(clock) .. ':' .. string.sub(here, 1, 8)
    local up_s = string.match(call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
    grace = up_s * S < GRACE and clock + GRACE or 0
  end
  if known ~= '' and known ~= id then
    grace = math.max(grace, string.match(id, '^%d+') + GRACE)
    for c in string.gmatch(A[5], '[^,]+') do call('HSET', N, c .. ' o', 1, c .. ' !', 1) end
  end
  local state, rank = here .. ' ' .. id, int(math.max(last, A[4]))
  call('HSET', P .. 'meta', 'state', state, '@' .. me, state, 'rank', rank,
    'times', int(wall) .. ' ' .. int(clock) .. ' ' .. int(grace))
  call('ZADD', P .. 'procs', clock + TTL, me)
  for i = 6, #A, 5 do
    take(me, A[i], A[i + 1], clock - A[i + 2], '-', A[i + 3], A[i + 4])
  end
  for _, process in ipairs(call('ZRANGEBYSCORE', P .. 'procs', '-inf', clock)) do bury(process) end
  revoke()
  for _, R in ipairs(call('ZRANGEBYSCORE', P .. 'rosters', '-inf', clock - ROSTER, 'LIMIT', 0, 8)) do
    if call('EXISTS', P .. 'w:' .. R) == 0 then drop(R) end
  end
  -- A breaker that opened long ago, and forgot its failures, says nothing about any lease.
  local some = call('HRANDFIELD', N, 8, 'WITHVALUES') or {}
  for i = 1, #some, 2 do
    local b = string.find(some[i], ' [spqr]') and read(some[i + 1])
    if some[i + 1] == '0' or (b and b.state == READY and b.failures == 0 and b.shut < clock - ROSTER) then
      call('HDEL', N, some[i])
    end
  end
  return {id, call('HKEYS', P .. 'p:' .. me), ops.processes(), clock, call('HGETALL', N)}
end

-- Without a part in the state: names of processes, or the end of one.
function ops.processes() return call('ZRANGE', P .. 'procs', 0, -1) end
function ops.bury() bury(A[4]) end

redis.register_function(NAME, function(keys, args)
  call, P, N, A, me = redis.call, keys[1], keys[1] .. 'n', args, args[2]
  clock, moment, turns = nil, nil, {}
  if not (A[1] == 'release' or enter() or ALWAYS[A[1]]) then return {'S'} end
  return ops[A[1]]() or 1
end)
