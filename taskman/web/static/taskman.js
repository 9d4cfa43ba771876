// What pages gain by JavaScript beside htmx: clocks, the end of a log, whether the page is live, copying, keys.

const MOST_BLOCKS = 20
const UNITS = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']]
const exact = new Intl.DateTimeFormat(undefined, {dateStyle: 'medium', timeStyle: 'long'})
const $ = id => document.getElementById(id)

// --- clocks: the same words as the server's (wording.py) ---

function relative(at, now) {
  const seconds = (at - now) / 1000
  const [size, unit] = UNITS.find(([size]) => Math.abs(seconds) >= size) ?? [1, 's']
  const count = Math.floor(Math.abs(seconds) / size)
  if (!count) return 'now'
  return seconds > 0 ? `in ${count} ${unit}` : `${count} ${unit} ago`
}

function elapsed(since, now) {
  const seconds = Math.max(0, Math.floor((now - since) / 1000))
  const [large, small] = seconds >= 86400 ? [0, 1] : seconds >= 3600 ? [1, 2] : seconds >= 60 ? [2, 3] : [3, 3]
  const rest = Math.floor(seconds % UNITS[large][0] / UNITS[small][0])
  return `${Math.floor(seconds / UNITS[large][0])} ${UNITS[large][1]}` + (rest && large !== small ? ` ${rest} ${UNITS[small][1]}` : '')
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text
}

function tick() {
  const now = Date.now()
  for (const time of document.querySelectorAll('time[data-relative], time[data-since]')) {
    const at = Date.parse(time.dateTime)
    set(time, 'since' in time.dataset ? elapsed(at, now) : relative(at, now))
    if ('relative' in time.dataset && !time.dataset.local) {
      time.dataset.local = 'yes'
      time.title = exact.format(at)
    }
  }
}

// instants on the clock of whoever looks, beside those of the schedule's zone
const here = Intl.DateTimeFormat().resolvedOptions().timeZone
const clock = new Intl.DateTimeFormat('en-GB', {weekday: 'short', hour: '2-digit', minute: '2-digit'})

function yours() {
  for (const time of document.querySelectorAll('time[data-yours][hidden]')) {
    if (time.dataset.yours === here || here === 'UTC') continue
    time.textContent = `${clock.format(Date.parse(time.dateTime))} ${here}`
    time.hidden = false
  }
}

document.addEventListener('htmx:after:swap', yours)
yours()

setInterval(() => document.hidden || tick(), 1000)
document.addEventListener('visibilitychange', tick)
tick()

// --- whether the page is live ---

const live = $('live')
const stream = document.querySelector('[hx-sse\\:connect]')

function show(state, word) {
  if (!live) return
  live.hidden = false
  live.dataset.live = state
  set(live.querySelector('.word'), word)
}

if (stream) show('wait', 'connecting')
document.addEventListener('htmx:sse:after:connection', event =>
  event.detail.connection.status === 200 ? show('on', 'live') : show('off', 'not live'))
document.addEventListener('htmx:sse:error', () => show('off', 'not live: trying again'))
document.addEventListener('htmx:sse:close', event => {
  if (event.detail.reason === 'message') live.hidden = true
  else if (event.detail.reason !== 'removed') show('off', 'not live')
})
document.addEventListener('visibilitychange', () => stream && document.hidden && !live.hidden && show('wait', 'paused'))

// --- the log: follows while its end is in view, else counts what is new ---

const view = $('log-view')

if (view) {
  const log = $('log'), follow = $('log-follow'), word = follow.querySelector('span')
  let following = true, seen = 0
  const lines = () => Number(log.querySelector('.block:last-child .line:last-child > a')?.textContent ?? 0)
  const isAtEnd = () => view.scrollHeight - view.scrollTop - view.clientHeight < 48

  // blocks get their real height only once they are in view: the end moves while one comes near it
  function toEnd(frames = 4) {
    view.scrollTop = view.scrollHeight
    if (frames && following) requestAnimationFrame(() => toEnd(frames - 1))
  }

  function settle() {
    if (following) {
      while (log.querySelectorAll('.block').length > MOST_BLOCKS) log.querySelector('.block').remove()
      toEnd()
      seen = lines()
    }
    const count = lines() - seen
    follow.hidden = following || isAtEnd()
    set(word, count > 0 ? `${count} new ${count === 1 ? 'line' : 'lines'}` : 'To the end')
  }

  view.addEventListener('scroll', () => {
    following = isAtEnd()
    if (following) seen = lines()
    follow.hidden = following
  }, {passive: true})
  follow.addEventListener('click', () => { following = true; settle() })
  document.addEventListener('htmx:after:swap', settle)
  if (location.hash.startsWith('#L')) { following = false; seen = lines() }
  settle()
}

// --- small choices, kept in this browser ---

for (const box of document.querySelectorAll('input[data-keep]')) {
  const kept = localStorage.getItem(box.id)
  if (kept !== null) box.checked = kept === 'on'
  box.addEventListener('change', () => localStorage.setItem(box.id, box.checked ? 'on' : 'off'))
}

// --- copy: also where the clipboard is closed to pages without TLS ---

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const area = document.createElement('textarea')
    area.value = text
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
  }
}

function addCopyButtons() {
  for (const block of document.querySelectorAll('[data-copy]:not(:has(.copy))')) {
    const button = document.createElement('button')
    button.type = 'button'
    button.className = 'copy quiet'
    button.textContent = 'Copy'
    button.addEventListener('click', async () => {
      await copy(block.querySelector('code').textContent)
      button.textContent = 'Copied'
      setTimeout(() => { button.textContent = 'Copy' }, 1500)
    })
    block.append(button)
  }
}

addCopyButtons()
document.addEventListener('htmx:after:swap', addCopyButtons)

// --- keys, only while no field has the focus: g then o r t p, n for a new run, / to search ---

const GO = {o: '/', r: '/runs', t: '/tasks', p: '/plugins'}
let gone = 0

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea, select')) return
  const search = document.querySelector('[data-search]')
  if (Date.now() - gone < 1000 && GO[event.key]) location.href = GO[event.key]
  else if (event.key === 'n') location.href = '/runs/new'
  else if (event.key === '/' && search) { event.preventDefault(); search.focus() }
  gone = event.key === 'g' ? Date.now() : 0
})
