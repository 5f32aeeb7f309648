if exists('b:did_ftplugin')
  finish
endif
let b:did_ftplugin = 1

setlocal commentstring=#\ %s comments=:#
setlocal formatoptions-=t formatoptions+=croql
" `gf` on the name of a script.
let &l:path = '.,,scripts/,hosts/'

let b:undo_ftplugin = 'setlocal commentstring< comments< formatoptions< path<'
