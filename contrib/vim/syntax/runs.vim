" A script: bash, with the functions of CONF up to the line `script:`, and those of SCRIPT below it.
if exists('b:current_syntax')
  finish
endif

let b:is_bash = 1
runtime! syntax/sh.vim
unlet! b:current_syntax

syntax match runsSeparator /^script:$/
" Not keywords: `desc=x` and `--conf` are something else.
syntax match runsConf /^\s*\zs\%(desc\|conf\|after\|var\|out\|ref\|secret\|sysinfos\)\ze\%(\s\|$\)/
syntax match runsFunction /\%(^\|[;&|({!]\|\<\%(if\|then\|else\|elif\|do\|while\|until\)\>\)\s*\zs\%(shouldrun\|setdone\|resetdone\|urequire\|etitle\|estep\|einfo\|ewarn\|eerror\|die\|is_yes\|quietly\|uinst_\w\+\|uinc\w*\)\ze\%(\s\|;\|$\)/
syntax cluster shCommandSubList add=runsFunction
syntax cluster shFunctionList add=runsFunction
syntax cluster shLoopList add=runsFunction,runsConf
syntax cluster shIfList add=runsFunction,runsConf

highlight default link runsSeparator PreProc
highlight default link runsConf Keyword
highlight default link runsFunction Function

let b:current_syntax = 'runs'
