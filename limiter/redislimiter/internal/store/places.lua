-- Places. Model: places.go.
--
-- A process holds as many places as the last answer has told it, or as many as
-- it says now, if these are fewer. What it says counts: it uses no others. More
-- are given only if all that are held stay within the limit, so the limit holds
-- but for those who use places after their lease. Those who come back with such
-- are believed, and nothing is given until there is room again.
--
-- Each process's due is its max-min fair share of the limit. What is left over
-- when the dues are rounded down goes round: who has one place more than that
-- gives it back after a while, if others wait for one. Who is below its due
-- comes first, then who has waited longest.
--
-- Records: number want class held since yield short. s.held, s.yield, s.short
-- are the sums.

local TENURE, BEHIND = 1000000, 4000000000000000

local keyWait = KEYS[4]
local held, want = tonumber(ARGV[16]), tonumber(ARGV[17])
local limit = tonumber(s.value)
if lost then
	redis.call('DEL', keyWait)
end

local function parse(rec)
	local r = {}
	for n in string.gmatch(rec, '%d+') do r[#r + 1] = tonumber(n) end
	return {number = r[1], want = r[2], class = r[3], held = r[4], since = r[5], yield = r[6], short = r[7]}
end

forget = function(rec, id)
	local p = parse(rec)
	if p.class == 1 then s.big = s.big - 1 else s.small = s.small - p.want end
	s.held, s.yield, s.short = s.held - p.held, s.yield - p.yield, s.short - p.short
	redis.call('ZREM', keyWait, id)
end

expire()
local rec, again = mine()
local waits = redis.call('ZSCORE', keyWait, call.id)
local since = now
if rec then
	local p = parse(rec)
	since = p.since
	if again then held, want = p.held, p.want end
	if held > p.held then since = now end
	forget(rec, call.id)
else
	s.active = s.active + 1
end

if call.leave and not again then
	s.active = s.active - 1
	save(nil)
	return answer(0, '0', '0', '0')
end

local class, due = share(want, limit)
local low = math.min(want, math.floor(due + 0.000001))
local high = math.min(want, math.ceil(due - 0.000001))
s.held = s.held + held

-- who is below low waits before all who are not, then who came first
local retry = 0
local function position()
	waits = tonumber(waits or now) % BEHIND
	local score = held < low and waits or waits + BEHIND
	return score, redis.call('ZCOUNT', keyWait, '-inf', '(' .. int(score))
end
if held < high then
	local score, ahead = position()
	local free = limit - s.held - ahead
	if now >= s.origin and not again and free > 0 then
		local more = math.min(free, high - held)
		held, s.held, since = held + more, s.held + more, now
		score, ahead = position()
	end
	if held < high then
		redis.call('ZADD', keyWait, int(score), call.id)
		retry = now + math.min(400000, 50000 + 50000 * ahead)
		if s.origin > now then retry = math.max(retry, math.min(now + 400000, s.origin)) end
	end
end

local short = math.max(0, low - held)
local yield = 0
if held > low then
	local free = limit - s.held -- below 0 if too many are held
	local need = s.short - free - s.yield
	if now - since >= TENURE then
		local others = redis.call('ZCOUNT', keyWait, int(BEHIND), '+inf')
		need = math.max(need, s.short + others - math.max(0, free) - s.yield)
	end
	yield = math.max(0, math.min(held - low, need))
end
s.yield, s.short = s.yield + yield, s.short + short

save(table.concat({int(math.max(call.number, rec and parse(rec).number or 0)), int(want), class, int(held), int(since), int(yield), int(short)}, ' '))
redis.call('PEXPIRE', keyWait, TTL)
return answer(retry, int(held), int(yield), int(high))
