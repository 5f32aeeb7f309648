" Scripts, recipes, groups and configurations of runsdeploy. Loaded before vim looks at the first line (scripts.vim).

function! s:Detect() abort
  let l:path = expand('<afile>:p')
  let l:name = fnamemodify(l:path, ':t')
  if l:name ==# 'runs.conf' || l:name ==# 'sysinfos.conf'
    set filetype=runs
  elseif l:name =~# '\.\|\~$'
    return
  elseif getline(1) =~# '^#!.*\<runs-script\>' || search('^script:$', 'cnw') > 0
    set filetype=runs
  elseif l:path =~# '/groups/[^/]*$' || l:path =~# '/hosts/[^/]*/[^/]*$' || l:path =~# '/[^/]*\.[^/]*/[^/]*/default$'
    if getline(1) !~# '^#!'
      set filetype=runsrecipe
    endif
  endif
endfunction

" A directory of scripts says what they are; elsewhere only the first line and the line `script:` do.
autocmd BufNewFile,BufRead runs.conf,sysinfos.conf,*/scripts/*,*/hosts/*,*/groups/*,*/*.*/*/* call s:Detect()
