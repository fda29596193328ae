// What chokidar, the watcher of vite and webpack, sees of a directory.
const chokidar = require('chokidar');
const {relative} = require('path');
const root = process.argv[2];
let ready = false;
chokidar.watch(root, {ignored: /\.ready|\.git|\.swp/})
	.on('ready', () => { ready = true; console.log('ready'); })
	.on('all', (event, path) => { if (ready) console.log(event, relative(root, path)); });
