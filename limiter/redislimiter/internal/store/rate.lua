-- Starts. Model: rate.go.
--
-- Time from the origin on is a grid of cells, as long as the rate wants them:
-- cell j begins at origin + floor(j * cell). A cell is leased to one process,
-- once, and may be used from its beginning for a width that the burst gives:
-- (burst - 1) cells. So the starts in a span [x, x+t] come from the cells that
-- begin in [x - width, x+t], and these are at most
--
--     1 + (t + width) / cell  =  burst + rate * t
--
-- whoever they are leased to, and whatever is never used. That is all there is
-- to the limit: what follows decides who gets which.
--
-- s.cells is one character for each cell from s.base on, '1' where it is leased;
-- after its end everything is free.

local MINHORIZON, MAXHORIZON, CHUNK, MINWIDTH, MAXCELLS = 250000, 1000000, 20, 20000, 10000

local demand, soon, sooner, fresh, spread =
	tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18]), tonumber(ARGV[19]), tonumber(ARGV[20])
local after, held, lead, returned = tonumber(ARGV[21]), tonumber(ARGV[22]), tonumber(ARGV[23]), ARGV[24]

forget = function(rec)
	local d, class = string.match(rec, '^%d+ (%d+) (%d)')
	if class == '1' then s.big = s.big - 1 else s.small = s.small - tonumber(d) end
end

local function grid(value)
	local rate = tonumber(value)
	local grain = math.max(1, math.floor(rate / MAXCELLS))
	return rate, grain, grain * 1000000 / rate
end

local rate, grain, cell = grid(s.value)
local width = math.max(math.floor((tonumber(s.burst) - grain) * 1000000 / rate), MINWIDTH)

-- Whatever was leased of an old grid ends one cell before the new one begins, so
-- that the sum above holds across both.
if lost then s.origin = s.origin + math.ceil(cell) end
if changed then
	local _, _, old = grid(before)
	local last = math.min(s.base + #s.cells, math.ceil((now + LEASE - s.origin) / old))
	s.origin = math.max(now, s.origin, s.origin + math.floor(last * old))
	s.gen, s.base, s.cells = s.gen + 1, 0, ''
end

expire()
local rec, again = mine()
if rec then forget(rec) else s.active = s.active + 1 end
local number = call.number
if again then
	number, demand = string.match(rec, '^(%d+) (%d+)')
	number, demand = tonumber(number), tonumber(demand)
end

-- what nobody could use any more is dropped
local base = math.max(s.base, math.floor((now - width - s.origin) / cell))
if base > s.base then
	s.cells = string.sub(s.cells, base - s.base + 1)
	s.base = base
end

local function mark(positions, char)
	local parts, done = {}, 0
	for _, p in ipairs(positions) do
		parts[#parts + 1] = string.sub(s.cells, done + 1, p - 1)
		parts[#parts + 1] = char
		done = p
	end
	parts[#parts + 1] = string.sub(s.cells, done + 1)
	s.cells = table.concat(parts)
end

if call.gen == s.gen and rec and not again then
	for j in string.gmatch(returned, '%d+') do
		local p = tonumber(j) - s.base + 1
		if p >= 1 and p <= #s.cells then mark({p}, '0') end
	end
end

if call.leave and not again then
	s.active = s.active - 1
	save(nil)
	return answer(0, '0', '0', '0', '0', '')
end

local class, due = share(demand, rate * 1000)
local horizon = math.min(math.max(CHUNK * s.active * 1000000 / rate, MINHORIZON), MAXHORIZON)
horizon = math.floor(math.max(horizon, (s.active + 1) * cell))
local room = math.max(1, math.ceil(due / 1000 * horizon / 1000000 / grain)) - held
local burst = math.ceil(due / 1000 * width / 1000000 / grain) -- of what has begun, beside
if again then room, burst = 0, 0 end

-- the cells that can be leased now are those at positions first to last
local from = math.max(now, s.pause)
local first = math.max(1, math.ceil((from + lead - width - s.origin) / cell) - s.base + 1)
local last = math.floor((from + horizon - s.origin) / cell) - s.base + 1
if from > now + horizon then last = 0 end -- not yet
if last > #s.cells then s.cells = s.cells .. string.rep('0', last - #s.cells) end

local got = {}
-- each search begins behind what the one before has found
local function search(n, start, last, stride, least)
	local taken, behind = {}, start
	for i = 0, n - 1 do
		local at = math.max(behind, start + math.floor(i * (stride or 0)))
		local p = at <= last and string.find(s.cells, '0', at, true)
		if not p or p > last then break end
		taken[#taken + 1] = p
		behind = p + math.max(1, least or 0)
	end
	mark(taken, '1')
	for _, p in ipairs(taken) do got[#got + 1] = int(p - 1) end
	room = room - #taken
	return #taken
end
local begun = math.min(last, math.floor((from - s.origin) / cell) - s.base + 1)
local bound = last
if sooner > 0 then bound = math.min(last, math.ceil((sooner - s.origin) / cell) - s.base) end
local old = search(math.min(soon, math.max(room, 0) + burst), first, math.min(begun, bound))
room = room + math.min(old, burst)
local missing = soon + fresh - old
if room > 0 then missing = missing - search(math.min(soon - old, room), math.max(first, begun + 1), bound) end
if room > 0 then -- those that have begun last, and what follows
	missing = missing - search(math.min(fresh, room), math.max(first, begun + 1 - fresh), last)
end
local n = math.min(spread, room)
if n > 0 and last >= first then
	local start = math.min(math.max(first, math.ceil((after - s.origin) / cell) - s.base + 1), last)
	search(n, start, last, (last - start + 1) / n, math.floor(0.9 * rate * 1000 / due))
end
s.cells = string.match(s.cells, '^(.*1)0*$') or ''

-- who wants more and holds nothing looks again when cells have come free
local retry = 0
if missing > 0 then
	retry = math.max(from, s.origin) - now
	if retry > 0 then retry = retry - math.floor(horizon / 2) end
	retry = now + math.max(retry, math.floor(horizon / 4))
end

save(int(number) .. ' ' .. int(demand) .. ' ' .. class)
return answer(retry, int(due), int(horizon), s.big > 0 and '1' or '0', int(s.base), table.concat(got, ' '))
