-- The part that is common to all limits: time, generations, the limit's value,
-- pauses, and who is there. Model: common.go.
--
-- A generation is a stretch of time over which the store remembers everything.
-- It ends when the store may have forgotten something (it was flushed, a
-- replica without the latest writes took over, its clock was set back, nobody
-- could reach it). The next one begins a lease later, when whatever was leased
-- before has run out: nobody has to know what that was.

local LEASE, MEMORY, BACKWARDS, TTL = 1000000, 10000000, 50000, 2592000000

local keyState, keyProcs, keySeen = KEYS[1], KEYS[2], KEYS[3]
local function int(n) return string.format('%.0f', n) end

local call = {
	id = ARGV[2], number = tonumber(ARGV[3]),
	gen = tonumber(ARGV[4]), seq = tonumber(ARGV[5]),
	away = ARGV[6] == '1', join = ARGV[7] == '1',
	declaredValue = ARGV[8], declaredBurst = ARGV[9],
	version = tonumber(ARGV[10]), value = ARGV[11], burst = ARGV[12],
	set = ARGV[13], pause = tonumber(ARGV[14]), leave = ARGV[15] ~= '0', rest = ARGV[15] == '2',
}
local now = tonumber(ARGV[1])
if now == 0 then
	local t = redis.call('TIME')
	now = tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local s = {}
do
	local raw = redis.call('HGETALL', keyState)
	for i = 1, #raw, 2 do s[raw[i]] = raw[i + 1] end
end
for _, k in ipairs({'gen', 'seq', 'last', 'cut', 'version', 'origin', 'pause', 'active', 'big', 'small', 'base', 'held', 'yield', 'short'}) do
	s[k] = tonumber(s[k] or 0)
end
s.cells = s.cells or ''

-- A call may come after a later one of its process, or twice: connections are
-- given up with a call on its way, and clients send again what was not answered.
-- What it says is out of date then, and it changes nothing.
local stale
do
	local rec = redis.call('HGET', keyProcs, call.id)
	stale = rec and call.number <= tonumber(string.match(rec, '^%d+'))
	if stale then call.away, call.join, call.version, call.set, call.pause = false, false, 0, '0', 0 end
end

local lost = s.gen == 0 or call.gen > s.gen or (call.gen == s.gen and call.seq > s.seq)
	or now < s.last - BACKWARDS
	or (call.away and now - s.last > LEASE / 2)
	or (s.held > 0 and now - s.last > LEASE)
	or redis.call('HLEN', keyProcs) ~= s.active or redis.call('ZCARD', keySeen) < s.active
if lost then
	redis.call('DEL', keyProcs, keySeen)
	s.gen = math.max(now, call.gen + 1, s.gen + 1)
	s.seq, s.cut, s.origin = 0, 0, now + LEASE
	s.active, s.big, s.small, s.held, s.yield, s.short, s.base, s.cells = 0, 0, 0, 0, 0, 0, 0, ''
else
	now = math.max(now, s.last)
end
s.seq, s.last = s.seq + 1, now

local before, burstBefore = s.value, s.burst
if call.version > s.version then -- the store has forgotten what this process was told
	s.version, s.value, s.burst = call.version, call.value, call.burst
	s.declaredValue, s.declaredBurst = call.declaredValue, call.declaredBurst
end
if s.version == 0 or (call.join and (s.declaredValue ~= call.declaredValue or s.declaredBurst ~= call.declaredBurst)) then
	s.version = s.version + 1
	s.value, s.burst = call.declaredValue, call.declaredBurst
	s.declaredValue, s.declaredBurst = call.declaredValue, call.declaredBurst
end
if call.set ~= '0' then
	s.version, s.value = s.version + 1, call.set
end
local changed = before ~= nil and not lost and (s.value ~= before or s.burst ~= burstBefore)

if call.pause > 0 then s.pause = math.max(s.pause, now + call.pause) end
if call.pause < 0 then s.pause = 0 end

-- take the contribution of a process off the sums: each limit has its own
local forget

-- a process that has not called for a lease holds nothing and asks nothing
local function expire()
	local cut = now - LEASE
	for _, id in ipairs(redis.call('ZRANGEBYSCORE', keySeen, '(' .. int(s.cut), int(cut))) do
		local rec = redis.call('HGET', keyProcs, id)
		if rec then
			forget(rec, id)
			redis.call('HDEL', keyProcs, id)
			s.active = s.active - 1
		end
	end
	s.cut = cut
	redis.call('ZREMRANGEBYSCORE', keySeen, '-inf', int(now - MEMORY))
end

-- the record of the calling process, and whether it is of this call or a later one
local function mine()
	local rec = redis.call('HGET', keyProcs, call.id)
	if not rec then return nil, false end
	return rec, stale
end

-- a value's share in a limit of total, as max-min fairness has it. Of every
-- process the class is kept that it had when it called last: 1 (big) when it
-- wants more than the level, so that the level is what the small ones leave,
-- over the number of big ones. It settles within a few calls of each.
local function share(want, total)
	local equal = total / s.active
	local level = math.max((total - s.small) / (s.big + 1), equal)
	if want > level then
		s.big = s.big + 1
		return 1, level
	end
	s.small = s.small + want
	if s.big == 0 and s.small > 0 then
		return 0, math.max(want * total / s.small, equal)
	end
	return 0, math.max(want, equal)
end

local function save(rec)
	if rec then
		redis.call('HSET', keyProcs, call.id, rec)
		redis.call('ZADD', keySeen, int(now), call.id)
	else
		redis.call('HDEL', keyProcs, call.id)
		if call.rest then
			redis.call('ZADD', keySeen, int(now), call.id)
		else
			redis.call('ZREM', keySeen, call.id)
		end
	end
	redis.call('HSET', keyState,
		'gen', int(s.gen), 'seq', int(s.seq), 'last', int(s.last), 'cut', int(s.cut),
		'version', int(s.version), 'value', s.value, 'burst', s.burst,
		'declaredValue', s.declaredValue, 'declaredBurst', s.declaredBurst,
		'origin', int(s.origin), 'pause', int(s.pause),
		'active', int(s.active), 'big', int(s.big), 'small', int(s.small),
		'base', int(s.base), 'cells', s.cells, 'held', int(s.held), 'yield', int(s.yield), 'short', int(s.short))
	redis.call('PEXPIRE', keyState, TTL)
	redis.call('PEXPIRE', keyProcs, TTL)
	redis.call('PEXPIRE', keySeen, TTL)
end

local function answer(again, ...)
	return {
		int(now), int(s.gen), int(s.seq), int(s.version), s.value, s.burst, int(s.origin), int(s.pause),
		int(redis.call('ZCARD', keySeen)), int(again), ...
	}
end
