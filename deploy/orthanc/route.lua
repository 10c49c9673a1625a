-- Auto-routing: Orthanc sends knee radiographs to kneegrade, each as soon as it arrives, and nothing that came from it.
--
-- In orthanc.json: "LuaScripts": ["/etc/orthanc/route.lua"], "LuaHeartBeatPeriod": 60,
--   "DicomModalities": {"kneegrade": {"AET": "KNEEGRADE", "Host": "kneegrade", "Port": 11112, "Timeout": 30}}
-- kneegrade answers within moments, because it grades later. While it is away, films wait in a list and are sent with
-- the next film and at each heartbeat (Orthanc 1.11.1 or later). The list does not survive a restart of Orthanc; send such
-- films again, or grade them with `kneegrade batch dicomweb+https://...`. What kneegrade has already, it does not repeat.

local PEER = 'kneegrade'  -- name in DicomModalities
local TITLE = 'KNEEGRADE' -- AE title that kneegrade calls with
local WORDS = {'KNEE', 'KNIE', 'GENOU', 'RODILLA', 'GINOCCHIO', 'JOELHO'} -- one of them in TAGS; {} sends all radiographs
local TAGS = {'BodyPartExamined', 'StudyDescription', 'SeriesDescription', 'ProtocolName'}
local MOST_WAITING = 100000

local waiting = {}

local function isKneeFilm(tags)
  if tags['Modality'] ~= 'CR' and tags['Modality'] ~= 'DX' then return false end
  if #WORDS == 0 then return true end
  local text = ''
  for _, name in ipairs(TAGS) do text = text .. ' ' .. string.upper(tags[name] or '') end
  for _, word in ipairs(WORDS) do
    if string.find(text, word, 1, true) then return true end
  end
  return false
end

local function cameFromKneegrade(tags, origin)
  if origin['RequestOrigin'] == 'DicomProtocol' and origin['RemoteAet'] == TITLE then return true end
  return string.upper(tags['ManufacturerModelName'] or '') == 'KNEEGRADE' -- also if another node sent it on
end

local function isSent(id)
  return RestApiPost('/modalities/' .. PEER .. '/store', id) ~= nil
end

local function sendWaiting()
  while #waiting > 0 do
    local id = waiting[1]
    if RestApiGet('/instances/' .. id) and not isSent(id) then return end -- a deleted film waits no longer
    table.remove(waiting, 1)
  end
end

function OnStoredInstance(id, tags, metadata, origin)
  if isKneeFilm(tags) and not cameFromKneegrade(tags, origin) then
    if #waiting >= MOST_WAITING then table.remove(waiting, 1) end
    table.insert(waiting, id)
    sendWaiting()
  end
end

function OnHeartBeat()
  sendWaiting()
end
