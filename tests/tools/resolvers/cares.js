// c-ares, as Node has it: dns.resolve never asks the C library.
const dns = require('node:dns').promises

const asked = {
  HOST: async (name) => {
    const none = (error) => (['ENODATA', 'ENOTFOUND'].includes(error.code) ? [] : Promise.reject(error))
    const all = (await Promise.all([dns.resolve4(name).catch(none), dns.resolve6(name).catch(none)])).flat()
    if (all.length === 0) throw Object.assign(new Error('none'), { code: 'ENOTFOUND' })
    return all
  },
  A: (name) => dns.resolve4(name),
  AAAA: (name) => dns.resolve6(name),
  SRV: async (name) => (await dns.resolveSrv(name)).map((one) => `${one.port}/${one.name}`),
  TXT: async (name) => (await dns.resolveTxt(name)).map((strings) => strings.join('')),
  PTR: (name) => dns.resolvePtr(name),
}
const names = { ENOTFOUND: 'NXDOMAIN', ENODATA: 'NODATA' }

async function main() {
  for (const question of process.argv.slice(2)) {
    const at = question.indexOf(':')
    const found = await asked[question.slice(0, at)](question.slice(at + 1)).catch((e) => [names[e.code] ?? e.code])
    console.log([question, ...found.sort()].join(' '))
  }
}
main()
